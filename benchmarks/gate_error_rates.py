"""How often the gate is wrong: measured on real bundles, and simulated on real and made-up noise.

    python benchmarks/gate_error_rates.py simulate
    python benchmarks/gate_error_rates.py record  BUNDLE --data test.csv --pairs 60
    python benchmarks/gate_error_rates.py measure BUNDLE --data test.csv
    python benchmarks/gate_error_rates.py report
    python benchmarks/gate_error_rates.py replay

``simulate`` draws pairs from recorded A/A noise and from synthetic noise and lets the gate decide
2,000 times per row; holds the effect and the floor that it prints against its own decisions; and
slows the whole machine down in the middle of gates. ``measure`` runs whole gates: 60 A/A, and 20 each against a candidate that
does about 10 % and 20 % real extra work, whose true ratio is measured over 200 pairs. Every gate
is kept as raw JSON under ``--out``; a killed run continues where it was. ``replay`` decides every
kept gate again, from its raw pairs, by the code as it is, and the machine's pace with the
baseline's p50 as a proxy where the control kernel's time was not kept.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from gate_simulation import simulate

from edgekd import profiles, tasks
from edgekd.bench import environment, sequential
from edgekd.bench.gate import Arm, GateResult, from_dict, gate, measure_pair
from edgekd.bench.measure import HERE, spread
from edgekd.bench.sequential import Pair, Plan
from edgekd.bench.worker import write_feeds
from edgekd.bundle import MANIFEST, Bundle, sha256
from edgekd.data import read_rows

OUT = Path(__file__).parent / "gate_error_rates"


def record(out: Path, bundle: Path, data: Path, pairs: int) -> None:
    """A/A pairs of one bundle, kept as log-ratios; continues a file that is too short."""
    file = out / f"recorded-{bundle.name}.json"
    kept = json.loads(file.read_text())["pairs"] if file.is_file() else []
    for pair in _pairs(bundle, bundle, data, len(kept), pairs):
        kept.append({"p50": pair.log_ratio["p50"], "control": pair.control})
        _write(file, {"environment": environment.describe(), "pairs": kept})
    logs = np.array([pair["p50"] for pair in kept])
    print(f"{file.name}: {len(logs)} pairs, sd {logs.std():.2%}, median {np.median(logs):+.2%}")


def measure(out: Path, bundle: Path, data: Path, gates: int, slow_gates: int) -> None:
    """Whole gates, A/A and against slowed candidates; every result is one raw JSON file."""
    folder = out / bundle.name
    folder.mkdir(parents=True, exist_ok=True)
    _gates(folder, "aa", bundle, bundle, data, gates)
    for percent in (10, 20):
        slow = folder / "bundles" / f"slow{percent}"
        if not slow.is_dir():
            _slowed(bundle, slow, percent / 100, data)
        truth = folder / f"truth-slow{percent}.json"
        kept = json.loads(truth.read_text())["log_ratios"] if truth.is_file() else []
        for pair in _pairs(bundle, slow, data, len(kept), 200):
            kept.append(pair.log_ratio["p50"])
            _write(truth, {"log_ratios": kept})
        _gates(folder, f"slow{percent}", bundle, slow, data, slow_gates)
    report(out)


def _gates(
    folder: Path, name: str, baseline: Path, candidate: Path, data: Path, count: int
) -> None:
    rows = _rows(baseline, data)
    for index in range(count):
        file = folder / f"{name}-{index:03}.json"
        if file.is_file():
            continue
        start = time.perf_counter()
        result = gate(baseline, candidate, profiles.load("host"), rows, Plan(seed=index))
        seconds = time.perf_counter() - start
        _write(file, {**result.to_dict(), "seconds": seconds})
        print(f"{file.name}: {result.outcome.verdict}, {seconds:.0f} s", flush=True)


def report(out: Path) -> None:
    """Verdicts of all recorded gates, by bundle and kind."""
    print("| bundle | candidate | gates | regressed | inconclusive | unchanged | improved | s |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        for name in ("aa", "slow10", "slow20"):
            found = [json.loads(f.read_text()) for f in sorted(folder.glob(f"{name}-*.json"))]
            if not found:
                continue
            # The noisy verdict: extra work in the graph is an exact regression besides.
            counts = Counter(gate["findings"][0]["verdict"] for gate in found)
            truth = folder / f"truth-{name}.json"
            label = name
            if truth.is_file():
                logs = json.loads(truth.read_text())["log_ratios"]
                label += f" (true ratio {math.exp(np.median(logs)):.3f}, {len(logs)} pairs)"
            seconds = np.mean([gate["seconds"] for gate in found])
            shares = " | ".join(
                str(counts[v]) for v in ("regressed", "inconclusive", "unchanged", "improved")
            )
            print(f"| {folder.name} | {label} | {len(found)} | {shares} | {seconds:.0f} |")


def replay(out: Path) -> None:
    """Every kept gate decided again: the verdicts now, how many differ, and what is new of them."""
    rows = []
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        for name in ("aa", "slow10", "slow20"):
            files = sorted(folder.glob(f"{name}-*.json"))
            then = [json.loads(file.read_text()) for file in files]
            now = [from_dict(document) for document in then]
            if not now:
                continue
            first = [gate.outcome.findings[0] for gate in now]
            old = [document["findings"][0]["verdict"] for document in then]
            kept = [gate.outcome.pace_ratio for gate in now if gate.outcome.pace_ratio]
            rows.append(
                {
                    "bundle": folder.name,
                    "candidate": name,
                    "gates": len(now),
                    **Counter(finding.verdict for finding in first),
                    "changed": sum(a != b.verdict for a, b in zip(old, first, strict=True)),
                    "median_detectable": float(np.median([f.mde for f in first])),
                    "median_floor": float(np.median([f.floor for f in first])),
                    "dependent_pairs": sum(f.runs_p <= 0.01 for f in first),
                    "pace_ratios": [round(ratio, 3) for ratio in kept],
                    "pace_proxy": _pace_proxy(now),
                }
            )
    document = {"schema": "edgekd.gate-replay/1", "rows": rows}
    (out / "replay.json").write_text(json.dumps(document, indent=2) + "\n")
    print(
        "| bundle | candidate | gates | verdicts | changed | detectable | floor | runs p <= 1 % |"
        " pace by proxy (baseline's p50) |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        verdicts = ", ".join(f"{row[v]} {v}" for v in sequential.EXIT_CODES if v in row)
        print(
            f"| {row['bundle']} | {row['candidate']} | {row['gates']} | {verdicts} |"
            f" {row['changed']} | {row['median_detectable']:.1%} | {row['median_floor']:.1%} |"
            f" {row['dependent_pairs']} | {_proxy(row['pace_proxy'])} |"
        )


def _proxy(found: Mapping[str, Any]) -> str:
    said = [f"{found[key]} {key}" for key in ("steady", "moved", "changed") if key in found]
    return f"{', '.join(said)}; {min(found['ratios']):.2f} to {max(found['ratios']):.2f}"


def _pace_proxy(gates: Sequence[GateResult]) -> dict[str, Any]:
    """The check of the pace with the baseline's own p50 in the control kernel's place.

    A proxy for records that did not keep the kernel's time: the baseline is one bundle throughout,
    but it moves with its own noise too, which the kernel does not have.
    """
    said, ratios = [], []
    for result in gates:
        recorded = (*result.outcome.pairs, *result.outcome.confirmation)
        pairs = [
            replace(pair, control=0.0, kernel_ms=pair.raw["baseline"]["p50"]) for pair in recorded
        ]
        outcome = sequential.replay(pairs, [], result.plan)
        moved = any("pace moved" in caution for caution in outcome.cautions)
        said.append("changed" if outcome.contaminated else "moved" if moved else "steady")
        ratios.append(outcome.pace_ratio)
    return {
        "of": "the baseline's p50, not the control kernel",
        **Counter(said),
        "ratios": [ratio and round(ratio, 3) for ratio in ratios],
    }


def _pairs(baseline: Path, candidate: Path, data: Path, start: int, stop: int) -> Iterator[Pair]:
    """Pairs ``start`` to ``stop`` of the two bundles on this machine."""
    import tempfile

    bundles = {"baseline": Bundle.open(baseline), "candidate": Bundle.open(candidate)}
    host, pace = profiles.load("host"), []  # type: tuple[profiles.Profile, list[int]]
    rows = spread(_rows(baseline, data), bundles["baseline"])
    with tempfile.TemporaryDirectory() as folder:
        arms = {}
        for name, bundle in bundles.items():
            feeds = Path(folder) / f"{name}.npz"
            write_feeds(feeds, [bundle.encode([row]) for row in rows])
            arms[name] = Arm(bundle, feeds, host, HERE)
        for index in range(start, stop):
            yield measure_pair(arms, index, Plan(), pace)


def _slowed(bundle: Path, out: Path, share: float, data: Path) -> None:
    """A copy of an ONNX bundle that does about ``share`` more work: a chain of matrix products.

    The chain starts at the first output and its result, scaled to nothing, is added back, so that
    no optimiser can drop it. Its length is fitted with short runs; the true ratio is measured
    afterwards.
    """
    products = 8
    for _ in range(6):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(bundle, out)
        _chain(out, products)
        logs = [pair.log_ratio["p50"] for pair in _pairs(bundle, out, data, 0, 6)]
        measured = math.expm1(float(np.median(logs)))
        if abs(measured - share) < 0.1 * share:
            return
        products = max(1, round(products * share / max(measured, share / 8)))


def _chain(folder: Path, products: int) -> None:
    """Insert ``products`` small matrix products before the graph's first output."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    bundle = Bundle.open(folder)
    file = folder / bundle.manifest.model_files[0]
    model = onnx.load(file)
    graph = model.graph
    output = graph.output[0].name
    width = int(bundle.manifest.outputs[0].shape[-1])
    for node in graph.node:
        node.output[:] = ["before_chain" if name == output else name for name in node.output]
    generator = np.random.default_rng(0)
    size = 128
    tensors: dict[str, Any] = {
        "chain_in": generator.standard_normal((width, size)) / 16,
        "chain_w": generator.standard_normal((size, size)) / 16,
        "chain_out": generator.standard_normal((size, width)) / 16,
        "chain_zero": np.array(1e-30),
    }
    for name, value in tensors.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    nodes = [helper.make_node("MatMul", ["before_chain", "chain_in"], ["chain_0"])]
    for i in range(products):
        nodes.append(helper.make_node("MatMul", [f"chain_{i}", "chain_w"], [f"chain_{i}m"]))
        nodes.append(helper.make_node("Tanh", [f"chain_{i}m"], [f"chain_{i + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"chain_{products}", "chain_out"], ["chain_end"]))
    nodes.append(helper.make_node("Mul", ["chain_end", "chain_zero"], ["chain_small"]))
    nodes.append(helper.make_node("Add", ["before_chain", "chain_small"], [output]))
    graph.node.extend(nodes)
    del graph.value_info[:]
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    onnx.save(model, file)
    manifest = Bundle.open(folder).manifest
    manifest = replace(manifest, files={**manifest.files, file.name: sha256(file)})
    manifest = replace(manifest, digest=manifest.seal())
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n")


def _rows(bundle: Path, data: Path) -> Sequence[Any]:
    return read_rows(data, tasks.get(Bundle.open(bundle).manifest.task), labelled=False)


def _write(file: Path, document: dict[str, Any]) -> None:
    """Whole or not at all: a killed run must not leave half a record."""
    part = file.with_suffix(".partial")
    part.write_text(json.dumps(document) + "\n", encoding="utf-8")
    part.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("simulate", "record", "measure", "report", "replay"))
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--gates", type=int, default=60)
    parser.add_argument("--slow-gates", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.action in ("record", "measure") and not (given.bundle and given.data):
        parser.error(f"{given.action} needs a bundle and --data")
    if given.action == "record":
        record(given.out, given.bundle, given.data, given.pairs)
    elif given.action == "measure":
        measure(given.out, given.bundle, given.data, given.gates, given.slow_gates)
    else:
        {"simulate": simulate, "report": report, "replay": replay}[given.action](given.out)


if __name__ == "__main__":
    main()
