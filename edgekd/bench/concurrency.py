"""Throughput and tail under concurrent clients, and what a million inferences then cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgekd.exporter import Session
    from edgekd.profiles import Price


def closed_loop(
    session: Session,
    feeds: Sequence[Mapping[str, np.ndarray]],
    clients: int,
    samples: int,
    seconds: float,
) -> tuple[list[float], float]:
    """Latencies in ms of all requests, and the wall time in seconds that they took together.

    Each client asks again as soon as it is answered, until ``samples`` requests and ``seconds``
    are reached. They share one session, as the threads of a server do; the first error of a
    client is raised once all have stopped.
    """
    ready = threading.Barrier(clients + 1)
    lock = threading.Lock()
    latencies: list[float] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def client(offset: int) -> None:
        ready.wait()
        turn = offset  # clients start at different rows, so that they do not march in step
        while not stop.is_set():
            start = time.perf_counter()
            try:
                session.run(feeds[turn % len(feeds)])
            except Exception as error:  # whatever a runtime raises has to leave the thread
                errors.append(error)
                stop.set()
                return
            elapsed = (time.perf_counter() - start) * 1e3
            turn += 1
            with lock:
                latencies.append(round(elapsed, 5))
                if len(latencies) >= samples and time.perf_counter() - begin >= seconds:
                    stop.set()

    step = max(1, len(feeds) // clients)
    threads = [threading.Thread(target=client, args=(i * step,)) for i in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    begin = time.perf_counter()
    ready.wait()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - begin
    if errors:
        raise errors[0]
    return latencies, wall


def cost_per_million(throughput: float, price: Price, cores: int) -> dict[str, Any]:
    """What a million inferences cost at ``throughput`` per second on ``cores`` cores here.

    The price is taken per core, so the figure says what the priced machine would cost if one of
    its cores did what one core here did: it is only as good as that.
    """
    core_hour = price.per_hour / price.cores
    cost = core_hour * cores * 1e6 / (throughput * 3600)
    return {
        "cost": cost,
        "currency": price.currency,
        "per_core_hour": core_hour,
        "cores": cores,
        "assumes": f"a core of {price.of} does what a core of this machine did",
        "source": price.source,
    }
