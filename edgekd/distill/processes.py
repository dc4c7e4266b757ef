"""Train one model in several processes of this machine, as one process would.

The workers are started here, and accelerate under ``Trainer`` finds their process group, so there
is nothing to launch: a recipe says ``processes: 2``. Every process goes through the same
order of rows and takes its share of each batch; gradients are averaged, so weights and losses are
those of one process up to the order of sums. Worker 0 writes checkpoints and decides (when to
save, whether to stop); the others are told. The trained weights come back to the caller.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from transformers import PreTrainedModel

from edgekd.errors import EdgekdError, InputError

if TYPE_CHECKING:
    from edgekd.distill.trainer import Outcome


def train_in_processes(count: int, model: nn.Module, job: Mapping[str, Any]) -> Outcome:
    """Call ``trainer.train(model, **job)`` in ``count`` processes; ``model`` has the weights after.

    All of ``job`` must be picklable. Raises what a worker raised, :class:`InputError` where there
    are fewer GPUs than processes, and :class:`EdgekdError` where a worker died.
    """
    _check(count)
    payload = _packed({"model": model, **job})  # in one piece: what is shared stays shared
    threads = max(torch.get_num_threads() // count, 1)
    with tempfile.TemporaryDirectory(prefix="edgekd-") as meeting:
        arguments = (count, threads, meeting, payload)
        with _started(count, arguments) as connections:
            answers = [_answer(connections) for _ in range(count)]
    outcome, weights = next(answer for answer in answers if answer is not None)
    model.load_state_dict(weights)
    model.eval()
    return outcome


class _Pickler(pickle.Pickler):
    """A model crosses over as its class, config and weights: transformers keeps the rest apart."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, PreTrainedModel):
            return _rebuilt, (type(value), value.config, value.state_dict())
        return NotImplemented


def _packed(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream).dump(value)
    return stream.getvalue()


def _rebuilt(kind: Any, config: Any, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    model: nn.Module = kind(config)
    model.load_state_dict(weights)
    return model.eval()


def _check(count: int) -> None:
    if 0 < torch.cuda.device_count() < count:
        raise InputError(
            f"{count} processes need {count} GPUs, and there are {torch.cuda.device_count()}; lower"
            " processes"
        )


def _context() -> Any:
    """Who starts workers: never this process by a fork, which would inherit locked thread pools.

    On Linux a fork server imports the trainer once, for these workers and for the next training's,
    and runs nothing of it. Elsewhere each worker imports it: Apple's libraries bear no fork, nor
    does CUDA, once an import has as much as asked for it.
    """
    if sys.platform != "linux" or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["edgekd.distill.trainer", "accelerate"])
    return context


@contextmanager
def _started(count: int, arguments: tuple[Any, ...]) -> Iterator[list[Connection]]:
    """The workers' ends of the line; none outlives the block."""
    # DDP warns where every parameter is used, and read it must be before torch is loaded.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    context = _context()
    processes, connections = [], []
    try:
        for rank in range(count):
            ours, theirs = context.Pipe(duplex=False)
            work = (rank, *arguments, dict(os.environ), theirs)
            process = context.Process(target=_work, args=work, daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        yield list(connections)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()


def _answer(connections: list[Connection]) -> Any:
    """What the next worker that ends leaves behind; raises what it raised."""
    ready: Any = wait(connections)[0]
    connections.remove(ready)
    try:
        failed, found = pickle.loads(ready.recv_bytes())
    except EOFError as error:
        raise EdgekdError(
            "a training process died (out of memory?); lower processes or batch_size and run"
            " again: it goes on from the last checkpoint"
        ) from error
    if failed:
        raise found
    return found


def _work(
    rank: int,
    count: int,
    threads: int,
    meeting: str,
    payload: bytes,
    environment: Mapping[str, str],
    line: Connection,
) -> None:
    os.environ.update(environment)  # a fork server has that of its first day
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if rank:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # one progress is enough
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(threads)
    try:
        backend = _backend()
        # They meet in a file and talk over loopback: no port is opened to the outside.
        store = distributed.FileStore(str(Path(meeting) / "store"), count)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
        from edgekd.distill.trainer import train

        job = pickle.loads(payload)
        outcome = train(**job)
        found = None if rank else (outcome, job["model"].state_dict())
        line.send_bytes(pickle.dumps((False, found)))
        distributed.destroy_process_group()
    except EdgekdError as error:
        line.send_bytes(pickle.dumps((True, error)))
    except Exception:
        told = RuntimeError(f"in training process {rank}:\n{traceback.format_exc()}")
        line.send_bytes(pickle.dumps((True, told)))


def _backend() -> str:
    """Who carries gradients: NCCL between GPUs; Gloo between CPUs, and for what is decided."""
    if torch.cuda.is_available():
        return "cpu:gloo,cuda:nccl"
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    return "gloo"


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# What the trainer asks, in one process or in several.


def first() -> bool:
    """Whether this process is the one that writes and decides."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def share(indices: Sequence[int]) -> Sequence[int]:
    """This process' part of a batch; a batch of fewer rows than processes is computed by each."""
    if not distributed.is_initialized() or len(indices) < distributed.get_world_size():
        return indices
    return indices[distributed.get_rank() :: distributed.get_world_size()]


def agreed(ask: Callable[[], bool]) -> bool:
    """What the first process answers, told to all."""
    if not distributed.is_initialized():
        return ask()
    word = torch.tensor(int(first() and ask()))
    distributed.broadcast(word, 0)
    return bool(word)


def together() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.all_reduce(torch.zeros(1))


def average_gradients(module: nn.Module) -> None:
    """The mean over processes of the gradients of parameters that accelerate does not know of."""
    if not distributed.is_initialized():
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.get_world_size()
