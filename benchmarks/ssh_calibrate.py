"""What `edgekd calibrate` over ssh does to a projection, before and after, beside the truth.

    python benchmarks/ssh_calibrate.py

Two models that no calibration contains, a CNN (MobileNetV1) and a transformer (BERT, 3 layers of
192), are projected to a host behind an sshd on loopback: from the published table alone, then after
calibrating over ssh. Because that host can be reached, its true p50 is measured as well, and the
table says whether it lies inside the range.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loopback import sshd

from edgekd import exporter, profiles
from edgekd.bench import environment, transport
from edgekd.bench.calibrate import bert_program, calibrate, image_program
from edgekd.bench.measure import HERE, Measurement, measure
from edgekd.bench.projection import Calibration
from edgekd.bench.transport import Transport
from edgekd.exporter import Spec
from edgekd.program import Program, Shapes

SCHEMA = "edgekd.benchmark.ssh-calibrate/1"
OUT = Path(__file__).parent / "results"
# The published server stands for the host before it is calibrated.
PROFILE = """
title: the host behind ssh
target: onnx
where: elsewhere
device: Azure D64s v6
hardware:
  cpu: {value: Xeon 8573C, source: "https://github.com/Tencent/ncnn/blob/master/benchmark/README.md"}
  memory: {value: not stated, source: "https://github.com/Tencent/ncnn/blob/master/benchmark/README.md"}
"""


def subjects(folder: Path) -> dict[str, tuple[Path, Program]]:
    """Two models that calibration has not seen, as ONNX bundles."""
    import torch
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    torch.manual_seed(0)
    programs = {
        "MobileNetV1": image_program(MobileNetV1ForImageClassification, MobileNetV1Config()),
        "BERT 3x192": bert_program(3, 192),
    }
    lower = exporter.get("onnx").lower
    return {
        name: (lower(program, Spec(Shapes()), folder / name).path, program)
        for name, program in programs.items()
    }


def keep(folder: Path, found: Calibration) -> None:
    text = json.dumps(found.to_dict(), indent=2)
    (folder / f"{found.where}.json").write_text(f"{text}\n", encoding="utf-8")


def cell(measurement: Measurement) -> dict[str, Any]:
    """The projected range in ms, or why there is none."""
    if measurement.projection is None:
        return {"why": measurement.why}
    return asdict(measurement.projection)


def words(projected: dict[str, Any]) -> str:
    if "why" in projected:
        return "no projection"
    low, high, factor = projected["low"], projected["high"], projected["factor"]
    return f"{low:.3g} to {high:.3g} ms (×{factor:.2f} each way, projected)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, sshd() as (address, options):
        folder, kept = Path(name), Path(name) / "calibration"
        kept.mkdir()
        (folder / "remote.yaml").write_text(PROFILE, encoding="utf-8")
        remote = profiles.load(folder / "remote.yaml")
        bundles = subjects(folder)

        def look(place: Transport = HERE) -> dict[str, Measurement]:
            more = {"rounds": given.rounds, "memory": False, "calibrations": kept}
            return {
                name: measure(path, remote, program.rows, transport=place, **more)
                for name, (path, program) in bundles.items()
            }

        keep(kept, calibrate(profiles.load("host"), rounds=given.rounds))
        before = look()
        with transport.ssh(address, options, sys.executable) as there:
            keep(kept, calibrate(remote, transport=there, rounds=given.rounds))
            after, truth = look(), look(there)
    for name in bundles:
        true = truth[name].undisturbed  # the fastest process's median: what a projection is of
        row = {"model": name, "before": cell(before[name]), "after": cell(after[name])}
        rows.append(row | {"true_p50_ms": true, "inside": _inside(row["after"], true)})
    lines = [
        "| model | before: the published table | after: calibrated over ssh | measured over ssh |"
        " inside |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {words(row['before'])} | {words(row['after'])} |"
        f" {row['true_p50_ms']:.3g} ms (measured) | {'yes' if row['inside'] else 'no'} |"
        for row in rows
    ]
    document = {"schema": SCHEMA, "environment": environment.describe(), "rows": rows}
    text = json.dumps(document, indent=2)
    (given.out / "ssh_calibrate.json").write_text(f"{text}\n", encoding="utf-8")
    (given.out / "ssh_calibrate.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _inside(projected: dict[str, Any], value: float) -> bool | None:
    return projected["low"] <= value <= projected["high"] if "low" in projected else None


if __name__ == "__main__":
    main()
