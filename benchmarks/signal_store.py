"""Measure the signal store: memory of a reader, bytes per row, and what survives being killed.

    python benchmarks/signal_store.py [--json PATH]

The reader's own memory is RssAnon of a fresh process that opens the store, checks it, and reads
random batches; mapped files are the system's to drop and count apart (RssFile). Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.signals import Field, SignalSpec, SignalStore, key, keys, label

CLASSES, SHARD, BATCH = 77, 1024, 32
SPEC = SignalSpec("teacher", "preprocessing", {"logits": Field("float16", (CLASSES,))})


def fill(path: Path, rows: int) -> SignalStore:
    """Write ``rows`` random signals."""
    store = SignalStore.open(path, SPEC)
    random = np.random.default_rng(0)
    for start in range(0, rows, SHARD):
        numbers = range(start, min(start + SHARD, rows))
        names = np.array([key(str(n).encode()) for n in numbers], "S16")
        store.append(names, {"logits": random.standard_normal((len(names), CLASSES))})
    len(store)
    return store


def memory() -> dict[str, int]:
    """This process's resident memory in bytes, by kind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {name: int(value) * 1024 for name, value in values.items()}


def read(path: Path, rows: int) -> dict[str, Any]:
    """Open the store and read 1,000 random batches; return times and memory."""
    before = memory()["RssAnon"]
    start = time.perf_counter()
    store = SignalStore.open(path, SPEC)
    opened = time.perf_counter() - start
    random = np.random.default_rng(1)
    batches = random.integers(0, rows, (1000, BATCH))
    peak, spent = 0, 0.0
    for batch in batches:
        names = np.array([key(str(n).encode()) for n in batch], "S16")
        start = time.perf_counter()
        store.get(names)
        spent += time.perf_counter() - start
        peak = max(peak, memory()["RssAnon"])
    return {
        "rows": len(store),
        "open_s": round(opened, 3),
        "batch_ms": round(spent, 3),  # of one batch: a thousand of them were read
        "own_bytes": peak,
        "own_bytes_before": before,
    }


def worker(path: Path, rows: int) -> None:
    """Label ``rows`` rows with a slow teacher, to be killed."""
    data = [{"text": f"row {n}"} for n in range(rows)]

    def teacher(batch: Any) -> dict[str, np.ndarray]:
        time.sleep(0.002)
        seeds = [int.from_bytes(key(row)[:4], "big") for row in batch]
        values = [np.random.default_rng(s).standard_normal(CLASSES) for s in seeds]
        return {"logits": np.array(values)}

    store = SignalStore.open(path, SPEC)
    print("started", flush=True)
    label(data, keys(data), teacher, store, BATCH, shard_rows=64)


def kill(folder: Path, rows: int, times: int) -> dict[str, Any]:
    """Kill a labelling process at random points, finish it, and compare with an undisturbed one."""
    command = [sys.executable, __file__, "--worker", str(rows)]
    start = time.perf_counter()
    subprocess.run([*command, str(folder / "undisturbed")], check=True, capture_output=True)
    whole = time.perf_counter() - start
    random = np.random.default_rng()
    killed, shards = 0, []
    for _ in range(times):
        process = subprocess.Popen(
            [*command, str(folder / "killed")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0, whole / times))
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        shards.append(len(list((folder / "killed").glob("*.safetensors"))))
    subprocess.run([*command, str(folder / "killed")], check=True, capture_output=True)
    left, right = (
        {f.name: f.read_bytes() for f in (folder / name).iterdir()}
        for name in ("undisturbed", "killed")
    )
    return {
        "rows": rows,
        "killed": killed,
        "shards_at_each_death": shards,
        "shards": sum(name.endswith(".safetensors") for name in left),
        "byte_for_byte": left == right,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=int, help=argparse.SUPPRESS)
    parser.add_argument("path", nargs="?", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.path, arguments.worker)
        return
    if arguments.read:
        print(json.dumps(read(arguments.path, arguments.read)))
        return
    readers = []
    with tempfile.TemporaryDirectory() as name:
        for rows in (arguments.small, arguments.large):
            path = Path(name) / str(rows)
            start = time.perf_counter()
            store = fill(path, rows)
            wrote = time.perf_counter() - start
            output = subprocess.run(
                [sys.executable, __file__, "--read", str(rows), str(path)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            result = json.loads(output) | {
                "write_s": round(wrote, 2),
                "bytes_per_row": round(store.size_bytes / rows, 1),
            }
            readers.append(result)
            print(
                f"{rows:>9,} rows: own memory {result['own_bytes'] / 1e6:.1f} MB"
                f" ({result['own_bytes_before'] / 1e6:.1f} before opening),"
                f" {result['bytes_per_row']} bytes per row, written in {wrote:.1f} s,"
                f" opened and checked in {result['open_s']:.2f} s,"
                f" a random batch of {BATCH} in {result['batch_ms']:.2f} ms",
                file=sys.stderr,
            )
        difference = readers[1]["own_bytes"] - readers[0]["own_bytes"]
        print(f"difference in own memory: {difference / 1e6:.1f} MB", file=sys.stderr)
        death = kill(Path(name), 2000, 10)
        print(
            f"killed {death['killed']} times (after {death['shards_at_each_death']} of"
            f" {death['shards']} shards) and finished: byte for byte"
            f" {'equal' if death['byte_for_byte'] else 'DIFFERENT'}",
            file=sys.stderr,
        )
    document = {
        "schema": "edgekd.signal-store-benchmark/1",
        "readers": readers,
        "own_memory_difference_bytes": difference,
        "kill": death,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if not death["byte_for_byte"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
