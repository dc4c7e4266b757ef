"""Map a function over the workers of a Ray cluster, its answers in the order of the questions.

Nothing depends on which worker answers: the caller plans the batches, each worker computes with
as many threads as the caller would (a matrix product may round otherwise with another number),
and the caller alone writes. On machines of one kind the result is the same byte for byte as
without a cluster.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from edgekd.errors import EdgekdError, InputError, MissingDependency

AHEAD = 4  # items per worker that are sent before the first answer is waited for
STORE_BYTES = 256 * 2**20  # shared memory of a cluster of our own; it holds the teacher once

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@contextmanager
def ray_engine(workers: int | None = None, address: str | None = None) -> Iterator[Map]:
    """Yield ``map(function, items)`` over ``workers`` processes of a Ray cluster.

    ``address`` joins a cluster (``host:port``, or ``auto`` for the one on this machine); without
    it one is started here, on loopback alone, and ended with the block. ``workers`` defaults to
    as many as the processors allow. Raises :class:`MissingDependency` without Ray, and
    :class:`InputError` for an address where none answers or more workers than it has room for.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "the engine 'ray' is not installed; install it: pip install 'edgekd[ray]'"
        ) from error
    import torch

    threads = torch.get_num_threads()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        workers = workers or max((os.cpu_count() or 1) // threads, 1)
        quiet |= {"num_cpus": workers * threads, "object_store_memory": STORE_BYTES}
        quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address or "local", **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"no Ray cluster at {address or 'this machine'} ({' '.join(str(error).split())[:160]});"
            " start one with `ray start --head`, or leave --ray-address out"
        ) from error
    try:
        room = int(ray.cluster_resources().get("CPU", 0)) // threads
        workers = workers or max(room, 1)
        if workers > room:
            raise InputError(
                f"{workers} workers of {threads} threads are more than the cluster has processors"
                f" for; ask for --workers {max(room, 1)}, or set OMP_NUM_THREADS lower"
            )
        chosen = workers

        def spread(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            return _spread(function, items, chosen, threads)

        yield spread
    finally:
        ray.shutdown()


class _Worker:
    def __init__(self, function: Callable[[Any], Any], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.function = function

    def run(self, item: Any) -> Any:
        return self.function(item)


def _spread(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int, threads: int
) -> Iterator[Any]:
    import ray

    sent = ray.put(function)  # the teacher crosses over once, not once a worker
    actor: Any = ray.remote(num_cpus=threads)(_Worker)
    actors = [actor.remote(sent, threads) for _ in range(workers)]
    waiting: deque[Any] = deque()
    try:
        for number, item in enumerate(items):
            waiting.append(actors[number % workers].run.remote(item))
            if len(waiting) >= AHEAD * workers:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, EdgekdError) else error from None
    except ray.exceptions.RayError as error:
        raise EdgekdError(
            f"a Ray worker was lost ({' '.join(str(error).split())[:160]}); run again: what is"
            " complete stays"
        ) from error
    finally:
        for each in actors:
            ray.kill(each)
