"""What `edgekd calibrate` over ssh does to a projection, before and after, beside the truth.

    python benchmarks/ssh_calibrate.py [--work DIR] [--rounds 5]

Two models that no calibration contains, a CNN (MobileNetV1) and a transformer (BERT, 3 layers of
192), are projected to a host behind an sshd on loopback: from the published table alone, then after
calibrating over ssh. Because that host can be reached, its true p50 is measured as well, and the
table says whether it lies inside the range.

Every step is one model and is kept in --work: a killed run goes on where it was, one that is over
starts anew with another --work. Here and there run in turn, so that what else the machine does
falls on both.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loopback import sshd

from edgekd import exporter, profiles
from edgekd.bench import environment, projection, transport
from edgekd.bench.calibrate import MODELS, bert_program, calibrate, image_program, in_turn
from edgekd.bench.projection import Calibration, Projection
from edgekd.bench.transport import Transport
from edgekd.exporter import Spec
from edgekd.profiles import Profile
from edgekd.program import Program, Shapes

SCHEMA = "edgekd.benchmark.ssh-calibrate/2"
OUT = Path(__file__).parent / "results"
YES_NO = {True: "yes", False: "no", None: "-"}
# Before it is calibrated, the host is taken for a published server of another speed: what one
# gets who trusts a data sheet, and the reason to calibrate.
PROFILE = """
title: the host behind ssh
target: onnx
where: elsewhere
device: Azure D64s v6
hardware:
  cpu: {value: Xeon 8573C, source: "https://github.com/Tencent/ncnn/blob/master/benchmark/README.md"}
  memory: {value: not stated, source: "https://github.com/Tencent/ncnn/blob/master/benchmark/README.md"}
"""


def mobilenet_v1() -> Program:
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    return image_program(MobileNetV1ForImageClassification, MobileNetV1Config())


# Models that calibration has not seen.
SUBJECTS: dict[str, Callable[[], Program]] = {
    "MobileNetV1": mobilenet_v1,
    "BERT 3x192": lambda: bert_program(3, 192),
}


def step(work: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, from ``work`` where an earlier run made it; whole or not at all."""
    file = work / f"{name.replace('/', '-').replace(' ', '-')}.json"
    if file.is_file():
        print(f"{name}: kept", flush=True)
    else:
        start = time.perf_counter()
        text = json.dumps(make(), indent=2)
        file.with_suffix(".partial").write_text(f"{text}\n", encoding="utf-8")
        file.with_suffix(".partial").replace(file)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def calibrated(
    work: Path, profile: Profile, rounds: int, place: Transport | None = None
) -> Calibration:
    """`edgekd calibrate`, model by model: each is kept, and all of them are one calibration."""
    more = {"rounds": rounds} | ({"transport": place} if place else {})
    parts = [
        step(
            work,
            f"{profile.name} {name}",
            lambda name=name: asdict(calibrate(profile, [name], **more)),
        )
        for name in MODELS
    ]
    models = {k: v for part in parts for k, v in part["models"].items()}
    host = {k: v for part in parts for k, v in part["host"].items()}
    return replace(Calibration(**parts[-1]), models=models, host=host)


def keep(folder: Path, *found: Calibration) -> Path:
    """A folder that `edgekd bench` would read these calibrations from."""
    folder.mkdir()
    for each in found:
        (folder / f"{each.where}.json").write_text(json.dumps(each.to_dict()), encoding="utf-8")
    return folder


def subject(name: str, profile: Profile, place: Transport, rounds: int) -> dict[str, Any]:
    """p50 in ms here and there of a model that no calibration knows, and what projecting needs."""
    import torch

    torch.manual_seed(0)
    program, target = SUBJECTS[name](), exporter.get("onnx")
    with tempfile.TemporaryDirectory() as folder:
        bundle = target.lower(program, Spec(Shapes()), Path(folder) / "bundle")
        there, here = in_turn(bundle, program.rows, profile, place, rounds)
        return {"there": there, "here": here, "exact": target.inspect(bundle)}


def words(projected: dict[str, Any]) -> str:
    if "why" in projected:
        return "no projection"
    low, high, factor = projected["low"], projected["high"], projected["factor"]
    alone = ", error of the ratio alone" if projected["excludes"] else ""
    return f"{low:.3g} to {high:.3g} ms (×{factor:.2f} each way, projected{alone})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/ssh-calibrate"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    machine, rows = environment.describe(), []
    with tempfile.TemporaryDirectory() as name, sshd() as (address, options):
        folder = Path(name)
        (folder / "remote.yaml").write_text(PROFILE, encoding="utf-8")
        remote = profiles.load(folder / "remote.yaml")
        with transport.ssh(address, options, sys.executable) as there:
            host = calibrated(given.work, profiles.load("host"), given.rounds)
            behind = calibrated(given.work, remote, given.rounds, there)
            before = keep(folder / "before", host)
            after = keep(folder / "after", host, behind)
            for model in SUBJECTS:
                found = step(
                    given.work,
                    model,
                    lambda model=model: subject(model, remote, there, given.rounds),
                )
                row: dict[str, Any] = {"model": model, "true_p50_ms": found["there"]}
                for when, calibrations in (("before", before), ("after", after)):
                    answer = projection.project(
                        found["here"], found["exact"], "fp32", remote, machine, calibrations
                    )
                    row[when] = (
                        asdict(answer) if isinstance(answer, Projection) else {"why": answer}
                    )
                    row[f"inside_{when}"] = _inside(row[when], found["there"])
                rows.append(row)
    lines = [
        "| model | before: the published table, another server in its place | inside |"
        " after: calibrated over ssh | inside | measured over ssh |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {words(row['before'])} | {YES_NO[row['inside_before']]} |"
        f" {words(row['after'])} | {YES_NO[row['inside_after']]} |"
        f" {row['true_p50_ms']:.3g} ms (measured) |"
        for row in rows
    ]
    document = {"schema": SCHEMA, "environment": machine, "rows": rows}
    text = json.dumps(document, indent=2)
    (given.out / "ssh_calibrate.json").write_text(f"{text}\n", encoding="utf-8")
    (given.out / "ssh_calibrate.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _inside(projected: dict[str, Any], value: float) -> bool | None:
    return projected["low"] <= value <= projected["high"] if "low" in projected else None


if __name__ == "__main__":
    main()
