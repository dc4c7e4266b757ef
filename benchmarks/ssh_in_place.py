"""A bundle over ssh against the same bundle in place: does the transport change the number?

    python benchmarks/ssh_in_place.py BUNDLE --data test.csv --on ssh:user@127.0.0.1:2222

The gate decides, with the process in place as the baseline and the one behind ssh on the same
machine as the candidate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from edgekd import profiles, tasks
from edgekd.bench import render, sequential, transport
from edgekd.bench.gate import Arm, measure_pair
from edgekd.bench.measure import HERE, spread
from edgekd.bench.sequential import Plan
from edgekd.bench.worker import write_feeds
from edgekd.bundle import Bundle
from edgekd.data import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--on", required=True)
    parser.add_argument("--python", default="python3")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    bundle, host, plan = Bundle.open(given.bundle), profiles.load("host"), Plan()
    task = tasks.get(bundle.manifest.task)
    rows = spread(read_rows(given.data, task, labelled=False), bundle)
    pace: list[int] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        transport.parse(given.on, given.python) as there,
    ):
        feeds = Path(folder) / "feeds.npz"
        write_feeds(feeds, [bundle.encode([row]) for row in rows])
        arms = {
            "baseline": Arm(bundle, feeds, host, HERE),
            "candidate": Arm(bundle, feeds, host, there),
        }
        outcome = sequential.run(lambda index: measure_pair(arms, index, plan, pace), plan)
    print(outcome.verdict)
    for finding in outcome.findings:
        print(render.sentence(finding))
    if given.json:
        given.json.write_text(json.dumps(asdict(outcome), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
