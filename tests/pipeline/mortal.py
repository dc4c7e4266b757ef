"""The command line in a process that kills itself at a chosen moment, for ``test_pipeline.py``.

A module of its own, so that a second process can import it.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any


def run(arguments: list[str], log: str, where: str = "", count: int = 0) -> None:
    """Run ``arguments``; die by SIGKILL when ``where`` (module:name) is called the nth time."""
    sys.stdout = sys.stderr = open(log, "a")  # noqa: SIM115, PTH123 - as long as the process
    import torch

    from edgekd.cli import main
    from edgekd.distill import trainer

    torch.set_num_threads(1)  # models this small only wait for a second thread

    def often(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = state.global_step % 9 == 0 and not control.should_training_stop

    trainer._Checkpoints.on_step_end = often  # type: ignore[method-assign]
    if where:
        _die_at(where, count)
    main(arguments)


def _die_at(where: str, count: int) -> None:
    module, _, path = where.partition(":")
    *parents, name = path.split(".")
    owner: Any = import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    real = getattr(owner, name)
    calls = 0

    def deadly(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(owner, name, deadly)
