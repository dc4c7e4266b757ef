"""One interleaved run over many artifacts: fresh processes every round, turns in random order.

All artifacts of a round are loaded at once, each in a process of its own, and take turns over the
same rows, in an order drawn anew each turn: what slows the machine for a second slows all of
them. The round is the statistical unit. Finished rounds are kept, so an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from artifacts import Artifact, Feeds, here

from edgekd import profiles
from edgekd.bench.gate import Arm
from edgekd.bench.measure import HERE
from edgekd.bench.runner import Runner
from edgekd.bench.worker import write_feeds
from edgekd.bundle import Bundle, sha256


@dataclass(frozen=True)
class Protocol:
    """``turns`` of each process, ``rounds`` of fresh processes.

    A turn is as many rows for all as keep the fastest busy for ``slice_ms``, within the limits of
    ``rows``: shorter ones would time cold caches, longer ones wait for the slowest.
    """

    rounds: int = 20
    turns: int = 12
    slice_ms: float = 4.0
    rows: tuple[int, int] = (16, 64)
    warm: int = 64
    seed: int = 0


Round = dict[str, list[float]]  # artifact -> median latency of each of its turns, in ms


def measure(
    arms: Mapping[str, tuple[Bundle, Feeds]], protocol: Protocol, kept: Path
) -> list[Round]:
    """Medians by round, artifact and turn; ``kept`` holds the rounds that are done."""
    file = kept / f"rounds-{_key(arms, protocol)}.jsonl"
    done: list[Round] = []
    if file.is_file():
        done = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    profile = profiles.load("host")
    with tempfile.TemporaryDirectory(prefix="edgekd-peers-") as folder:
        ready = {}
        for i, (name, (bundle, feeds)) in enumerate(arms.items()):
            write_feeds(Path(folder) / f"{i}.npz", feeds)
            ready[name] = Arm(bundle, Path(folder) / f"{i}.npz", profile, HERE)
        for index in range(len(done), protocol.rounds):
            found = _round(ready, protocol, random.Random(f"{protocol.seed} {index}"))
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(found) + "\n")
            done.append(found)
            print(f"  round {index + 1} of {protocol.rounds}", flush=True)
    return done[: protocol.rounds]


def _round(arms: Mapping[str, Arm], protocol: Protocol, lot: random.Random) -> Round:
    runners: dict[str, Runner] = {}
    found: Round = {name: [] for name in arms}
    fastest = float("inf")
    try:
        for name in lot.sample(list(arms), len(arms)):
            runners[name] = arms[name].fresh()
            runners[name].ask("open")
            warm = runners[name].ask("warm", seconds=0.0, count=protocol.warm)
            fastest = min(fastest, warm["warm_ms"] / warm["warm"])
        count = int(np.clip(np.ceil(protocol.slice_ms / fastest), *protocol.rows))
        for _ in range(protocol.turns):
            for name in lot.sample(list(arms), len(arms)):
                reply = runners[name].ask("step", count=count, control=0)
                found[name].append(round(float(np.median(reply["samples_ms"])), 5))
    finally:
        for runner in runners.values():
            runner.end()
    return found


def spread(artifact: Artifact, count: int = 64) -> list[int]:
    """Indices of ``count`` rows whose lengths are spread as the test set's are, shuffled."""
    lengths = [next(iter(feed.values())).shape[-1] for feed in artifact.feeds]
    order = np.argsort(lengths, kind="stable")
    count = min(count, len(order))
    picked = order[(np.arange(count) * len(order) + len(order) // 2) // count]
    return [int(i) for i in np.random.default_rng(0).permutation(picked)]


def _key(arms: Mapping[str, tuple[Bundle, Feeds]], protocol: Protocol) -> str:
    settings = {**asdict(protocol), "rounds": None}  # more rounds go on where the others ended
    digest = hashlib.sha256(json.dumps(settings).encode() + here())
    for name, (bundle, feeds) in sorted(arms.items()):
        digest.update(name.encode() + sha256(bundle.path / "model.onnx").encode())
        for feed in feeds:
            for array in feed.values():
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
