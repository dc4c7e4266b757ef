"""A bundle over ssh against the same bundle in place: does the way there change the number?

    python benchmarks/ssh_in_place.py BUNDLE --data test.csv

Starts an sshd of its own on loopback. The gate decides, with the process in place as the baseline
and the one behind ssh, on the same machine, as the candidate; every pair is kept in
benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from loopback import sshd

from edgekd import profiles, tasks
from edgekd.bench import environment, render, sequential, transport
from edgekd.bench.gate import Arm, measure_pair
from edgekd.bench.measure import HERE, spread
from edgekd.bench.sequential import Plan
from edgekd.bench.worker import write_feeds
from edgekd.bundle import Bundle
from edgekd.data import read_rows

OUT = Path(__file__).parent / "results" / "ssh_in_place.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=OUT)
    given = parser.parse_args()
    bundle, host, plan = Bundle.open(given.bundle), profiles.load("host"), Plan(seed=given.seed)
    task = tasks.get(bundle.manifest.task)
    rows = spread(read_rows(given.data, task, labelled=False), bundle)
    pace: list[int] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        sshd() as (address, options),
        transport.ssh(address, options, sys.executable) as there,
    ):
        feeds = Path(folder) / "feeds.npz"
        write_feeds(feeds, [bundle.encode([row]) for row in rows])
        arms = {
            "baseline": Arm(bundle, feeds, host, HERE),
            "candidate": Arm(bundle, feeds, host, there),
        }
        outcome = sequential.run(lambda index: measure_pair(arms, index, plan, pace), plan)
    print(f"over ssh against in place: {outcome.verdict}")
    for finding in outcome.findings:
        print(render.sentence(finding))
    document = {
        "schema": "edgekd.benchmark.ssh-in-place/1",
        "environment": environment.describe(),
        "plan": asdict(plan),
        **asdict(outcome),
    }
    given.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.exit(outcome.exit_code)


if __name__ == "__main__":
    main()
