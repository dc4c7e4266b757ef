"""The comparison as rows of JSON and as one Markdown page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from judge import LIMIT, Verdict

if TYPE_CHECKING:
    from artifacts import Artifact


def row(one: Artifact, ours: Artifact, verdict: Verdict) -> dict[str, Any]:
    """One artifact beside the one of ours that it is judged against."""
    return {
        "id": one.id,
        "maker": one.maker,
        "settings": list(one.names),
        "int8": one.int8,
        "against": ours.id,
        "p50_ms": verdict.latency.theirs_ms,
        "ratio": asdict(verdict.latency.ratio),
        "accuracy": verdict.accuracy[1],
        "mcnemar_p": verdict.p_value,
        "size_bytes": verdict.size[1],
        "fast": verdict.fast,
        "accurate": verdict.accurate,
        "small": verdict.small,
        "ahead": list(verdict.ahead),
        "holds": verdict.holds,
    }


def holds(document: Mapping[str, Any]) -> bool:
    """Whether every clause holds on everything that was asked for.

    A case that was skipped, and one in which no peer made an int8 artifact, show nothing.
    """
    verdicts = [not document["skipped"]]
    for case in document["cases"].values():
        judged = [r["holds"] for r in case["artifacts"] if r["maker"] != "edgekd" and r["int8"]]
        verdicts.append(bool(judged) and all(judged))
    if document["lengths"]:
        verdicts.append(all(row["fast"] for row in document["lengths"]["rows"]))
    return len(verdicts) > 1 and all(verdicts)


def with_machines(document: Mapping[str, Any]) -> dict[str, Any]:
    """Each case with the machine and the protocol it was measured with.

    A document whose cases all came from one run may name them once, at its top.
    """
    rest = dict(document)
    shared = {k: rest.pop(k) for k in ("environment", "protocol") if k in rest}
    rest["cases"] = {name: {**shared, **case} for name, case in document["cases"].items()}
    rest["lengths"] = {**shared, **document["lengths"]} if document["lengths"] else {}
    return rest


def markdown(document: Mapping[str, Any]) -> str:
    document = with_machines(document)
    parts = [
        "# edgekd's ONNX bundles against the peers'\n",
        f"Peers: {', '.join(document['peers'].values())}. 1 thread, batch 1, real test rows;"
        " rounds of fresh processes that take turns in random order. Ratio: ours / theirs, median with its 95 % bootstrap interval. p: McNemar's exact test against"
        f" ours. An int8 row holds where the ratio's upper end is at most {LIMIT}, ours is not"
        " significantly less accurate and not larger, and is ahead beyond the interval in at"
        " least one of the three.\n",
    ]
    for name, case in document["cases"].items():
        parts.append(_case(name, case))
    if document["lengths"]:
        parts.append(_lengths(document["lengths"]))
    for name, reason in document["skipped"].items():
        parts.append(f"Skipped: {name} ({reason}).\n")
    return "\n".join(parts)


def _case(name: str, case: Mapping[str, Any]) -> str:
    lines = [
        f"## {name}: {case['task']}, {case['test_rows']:,} test rows\n",
        _machine(case),
        "| artifact | p50 ms | ours / theirs | bytes | accuracy | p | ahead in | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(case["artifacts"], key=lambda r: (r["maker"] != "edgekd", r["p50_ms"])):
        cells = [f"{one['maker']} {', '.join(one['settings'])}", f"{one['p50_ms']:.4f}"]
        own = one["maker"] == "edgekd"
        cells.append("" if own else _interval(one["ratio"]))
        cells += [f"{one['size_bytes']:,}", f"{one['accuracy']:.4f}"]
        cells.append("" if own else f"{one['mcnemar_p']:.3f}")
        cells.append("" if own else ", ".join(one["ahead"]))
        verdict = "yes" if one["holds"] else f"no: {_missed(one)}"
        cells.append(verdict if one["int8"] and not own else "")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    if case["failures"]:
        lines.append("Could not be made:\n")
        for reason in dict.fromkeys(f["error"] for f in case["failures"]):
            found = [f for f in case["failures"] if f["error"] == reason]
            names = ", ".join(f"{f['maker']} {f['name']}" for f in found)
            lines.append(f"- {names}: {reason[:160]}")
        lines.append("")
    return "\n".join(lines)


def _lengths(document: Mapping[str, Any]) -> str:
    lines = [
        "## fp32 at fixed lengths, against optimum-onnx's export\n",
        _machine(document),
        "| model | tokens | ours ms | theirs ms | ours / theirs | within |",
        "|---|---|---|---|---|---|",
    ]
    for one in document["rows"]:
        cells = [one["model"], str(one["tokens"]), f"{one['ours_ms']:.4f}"]
        cells += [f"{one['theirs_ms']:.4f}", _interval(one["ratio"])]
        cells.append("yes" if one["fast"] else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _machine(case: Mapping[str, Any]) -> str:
    machine = case["environment"]
    kernels = [f for f in machine["flags"] if "vnni" in f or f in ("avx2", "avx512f", "asimddp")]
    return (
        f"{machine['cpu']} ({', '.join(kernels)}), onnxruntime"
        f" {machine['libraries']['onnxruntime']}, {case['protocol']['rounds']} rounds.\n"
    )


def _interval(ratio: Mapping[str, float]) -> str:
    return f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def _missed(one: Mapping[str, Any]) -> str:
    clauses = {"latency": one["fast"], "accuracy": one["accurate"], "size": one["small"]}
    return ", ".join(name for name, held in clauses.items() if not held) or "ahead in nothing"
