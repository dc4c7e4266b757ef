"""``edgekd gate``: did this change make the bundle worse?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit

if TYPE_CHECKING:
    from edgekd.bench.gate import GateResult
    from edgekd.bench.sequential import Plan
    from edgekd.bench.transport import Transport


def gate(
    baseline: Annotated[
        Path | None,
        typer.Option(help="The bundle that is known to be good.", show_default=False),
    ] = None,
    candidate: Annotated[
        Path | None, typer.Option(help="The bundle to judge.", show_default=False)
    ] = None,
    tolerance: Annotated[str, typer.Option(help="Slowdown that does not matter.")] = "5%",
    exact_tolerance: Annotated[
        str, typer.Option(help="Growth of exact figures that does not matter.")
    ] = "0%",
    metrics: Annotated[
        list[str],
        typer.Option("--metric", help="Noisy metric to gate, repeatable: p50 first load memory."),
    ] = ["p50"],  # noqa: B006 - Typer copies it
    profile: Annotated[str, typer.Option(help="Profile by name or YAML path.")] = "host",
    data: Annotated[
        Path | None,
        typer.Option(help="Rows to run; otherwise the baseline's own.", show_default=False),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="WHERE", help="The profile's hardware: ssh:user@machine or adb."
        ),
    ] = None,
    python: Annotated[str, typer.Option(help="Python on that machine.")] = "python3",
    pairs: Annotated[
        int | None,
        typer.Option(
            help="Most pairs before it gives up, otherwise 30: 60, 90 ... 300 tell more.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order and the intervals.")] = 0,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Gate the baseline against itself: what can this machine tell?"
        ),
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(help="Decide again from a recorded gate; measures nothing."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Append a Markdown summary to this file.")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(help="Write customSmallerIsBetter JSON to this file.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Compare two bundles side by side on one machine: this one, or the one behind --on.

    Exit code: 0 unchanged or improved, 1 regressed, 2 the input is at fault, 3 inconclusive; a
    --self-test whose tolerance lies under the machine's floor is inconclusive. The error rates
    hold for noise of any shape, given that pairs are independent, which is tested and printed
    from 10 pairs on. The slowdown that would be seen is estimated from the same pairs.
    """
    import json
    from contextlib import nullcontext

    from edgekd.bench import gate as gates
    from edgekd.bench import render, transport
    from edgekd.bench.sequential import Plan
    from edgekd.errors import InputError

    if replay is not None:
        result = gates.from_dict(_document(replay))
    elif baseline is None or (candidate is None and not self_test):
        raise InputError("a gate needs --baseline and --candidate, or --baseline and --self-test")
    else:
        other = baseline if self_test or candidate is None else candidate
        plan = Plan(tolerance=_share(tolerance), metrics=tuple(metrics), seed=seed)
        plan = plan if pairs is None else plan.scaled(pairs)
        place = transport.parse(on, python) if on else nullcontext(transport.Local())
        with place as there:
            result = _measure(baseline, other, profile, data, _share(exact_tolerance), plan, there)
    if markdown is not None:
        with markdown.open("a", encoding="utf-8") as file:
            file.write(render.gate_markdown(result))
    if chart is not None:
        chart.write_text(json.dumps(render.gate_chart(result), indent=2) + "\n", encoding="utf-8")
    under = any(finding.floor > result.plan.tolerance for finding in result.outcome.findings)
    code = 3 if self_test and under else result.exit_code
    document = {**result.to_dict(), "exit_code": code}
    emit(document, json_path, lambda console: _show(console, result, self_test))
    raise typer.Exit(code)


def _measure(
    baseline: Path,
    candidate: Path,
    profile: str,
    data: Path | None,
    exact_tolerance: float,
    plan: Plan,
    place: Transport,
) -> GateResult:
    from edgekd import profiles
    from edgekd.bench.gate import gate as compare
    from edgekd.bench.gate import refuse_stored
    from edgekd.bundle import Bundle
    from edgekd.cli.bench import rows_of

    for artifact in (baseline, candidate):
        refuse_stored(artifact)
    rows = rows_of([Bundle.open(baseline)], data)
    return compare(
        baseline,
        candidate,
        profiles.load(profile, Path()),
        rows,
        plan,
        exact_tolerance=exact_tolerance,
        transport=place,
        progress=_progress,
    )


def _progress(done: int, most: int) -> None:
    """A line that overwrites itself, on a terminal only: pairs take seconds each."""
    import sys

    if sys.stderr.isatty():
        print(f"\rpair {done} of at most {most} ", end="", file=sys.stderr, flush=True)


def _show(console: Any, result: GateResult, self_test: bool) -> None:
    from edgekd.bench import render

    render.gate(console, result)
    if self_test:
        floor = max(finding.floor for finding in result.outcome.findings)
        slower = max(finding.mde for finding in result.outcome.findings)
        console.print(
            f"  this machine's floor, estimated: with a tolerance of {floor:.1%} or more, 8 of 10"
            f" gates of equal bundles end unchanged; at {result.plan.tolerance:.1%}, 8 of 10 gates see"
            f" {slower:.1%} slower as regressed",
            markup=False,
        )


def _share(text: str) -> float:
    from edgekd.errors import InputError
    from edgekd.quantities import parse_share

    try:
        return parse_share(text)
    except ValueError:
        raise InputError(f"'{text}' is not a share; write it as 5% or 0.05") from None


def _document(file: Path) -> dict[str, Any]:
    import json

    from edgekd.errors import InputError

    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{file} is not a recorded gate")
    return document
