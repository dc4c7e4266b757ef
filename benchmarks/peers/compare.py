"""edgekd's ONNX bundles against what optimum-onnx and Olive make of the same student.

Each peer works in an environment of its own, made from the requirements beside this file. All
artifacts run on this environment's onnxruntime with the same session options, one thread, on real
test rows as their own maker encodes them; see ``interleaved.py``. Whatever is made or measured is
kept under ``--work``, and a run that was stopped goes on.

    python benchmarks/peers/compare.py banking77 digits fsdd lengths --runs runs --work peers
    python benchmarks/peers/compare.py --student DIR --task text-classification \\
        --train train.csv --data test.csv --work peers

The table and the raw rounds go to benchmarks/results/peers.md and .json. Exit code 1 where a
clause does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import artifacts
import cases
import environments
import lengths
import numpy as np
import table
from interleaved import Protocol, measure, spread
from judge import judge, latency

from edgekd.bench import environment
from edgekd.errors import EdgekdError, InputError
from edgekd.pipeline import context as pipeline

SCHEMA = "edgekd.benchmark.peers/1"
RESULTS = environments.HERE.parent / "results"


def main() -> None:
    asked = _arguments()
    protocol = Protocol(rounds=asked.rounds)
    document = _previous(asked.out)
    document |= {
        "schema": SCHEMA,
        "peers": {peer: environments.version(peer) for peer in environments.PEERS},
    }
    made_with = {"environment": environment.describe(), "protocol": asdict(protocol)}
    wanted: list[cases.Case | str] = list(asked.cases)
    if asked.student:
        name = asked.name or asked.student.resolve().name
        wanted.append(cases.Case(name, asked.task, asked.student, asked.train, asked.data))
    for case in wanted:
        name = case if isinstance(case, str) else case.name
        print(name, flush=True)
        work = asked.work / name
        work.mkdir(parents=True, exist_ok=True)
        try:
            if name == "lengths":
                document["lengths"] = made_with | lengths.compare(asked.runs, work, protocol)
            else:
                found = case if isinstance(case, cases.Case) else cases.known(case, asked.runs)
                document["cases"][name] = made_with | compare(found, work, protocol)
        except InputError as error:
            print(f"  skipped: {error}", flush=True)
            document["skipped"][name] = str(error)
        else:
            document["skipped"].pop(name, None)
        _write(asked.out, document)
    print(table.markdown(document))
    sys.exit(0 if table.holds(document) else 1)


def compare(case: cases.Case, work: Path, protocol: Protocol) -> dict[str, Any]:
    """One student: make, answer, time, judge."""
    test, held, select = cases.read(case, work)
    calibration = pipeline.spread(held, cases.CALIBRATION)  # files are sorted by class
    made = artifacts.ours(case.student, case.task, select, test, work)
    failures = []
    for peer in environments.PEERS:
        found, failed = artifacts.theirs(peer, case.student, case.task, test, calibration, work)
        made += found
        failures += failed
    labels = made[0].bundle.manifest.labels
    truth = np.array([labels.index(row["label"]) for row in test])
    right = {a.id: artifacts.logits(a, work).argmax(-1) == truth for a in made}
    picked = spread(made[0])
    arms = {a.id: (a.bundle, [a.feeds[i] for i in picked]) for a in made}
    rounds = measure(arms, protocol, work)
    auto, whole = next(a for a in made if a.id.startswith("edgekd auto")), made[0]
    rows = []
    for one in made:
        # Float against float; everything else against what auto chose.
        ours = whole if one.names == ("fp32",) and one.maker != "edgekd" else auto
        verdict = judge(
            latency(rounds, ours.id, one.id),
            right[ours.id],
            right[one.id],
            (ours.bundle.size_bytes, one.bundle.size_bytes),
        )
        rows.append(table.row(one, ours, verdict))
    return {
        "task": case.task,
        "test_rows": len(test),
        "artifacts": rows,
        "failures": [asdict(failure) for failure in failures],
        "rounds_ms": [{n: round(float(np.median(v)), 5) for n, v in r.items()} for r in rounds],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help="banking77, digits, fsdd, lengths")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[Path("runs")],
        help="folders that hold NAME/student",
    )
    parser.add_argument("--work", type=Path, required=True, help="what is made is kept here")
    parser.add_argument("--rounds", type=int, default=Protocol.rounds)
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    parser.add_argument("--student", type=Path, help="another student, with the four below")
    parser.add_argument("--task")
    parser.add_argument("--train", help="its training rows: a tenth is held out to choose on")
    parser.add_argument("--data", help="its test rows")
    parser.add_argument("--name")
    asked = parser.parse_args()
    if asked.student and not (asked.task and asked.train and asked.data):
        parser.error("--student needs --task, --train and --data")
    if not asked.cases and not asked.student:
        asked.cases = ["banking77", "digits", "fsdd", "lengths"]
    return asked


def _previous(file: Path) -> dict[str, Any]:
    """Cases that were measured before, each with the machine it was measured on."""
    empty: dict[str, Any] = {"cases": {}, "lengths": {}, "skipped": {}}
    if not file.is_file():
        return empty
    return table.with_machines(empty | json.loads(file.read_text(encoding="utf-8")))


def _write(file: Path, document: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
    file.with_suffix(".md").write_text(table.markdown(document), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except EdgekdError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
