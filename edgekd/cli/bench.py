"""``edgekd bench``: how fast, how large, on what, and how we know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit

if TYPE_CHECKING:
    from edgekd.bundle import Bundle
    from edgekd.preprocess import Row

SCHEMA = "edgekd.bench/1"


def bench(
    bundles: Annotated[
        list[str],
        typer.Argument(
            help="Bundles, measured side by side; a model directory or id is exported to ONNX"
            " first.",
            show_default=False,
        ),
    ],
    profiles: Annotated[
        list[str],
        typer.Option("--profile", help="Profile by name or YAML path, repeatable; or 'all'."),
    ] = ["host"],  # noqa: B006 - Typer copies it
    data: Annotated[
        Path | None,
        typer.Option(help="Rows to run; otherwise the bundle's own.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Fresh processes per bundle.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Least duration of one block.")] = 0.5,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="WHERE", help="The profile's hardware: ssh:user@machine or adb."
        ),
    ] = None,
    python: Annotated[str, typer.Option(help="Python on that machine.")] = "python3",
    seed: Annotated[int, typer.Option(help="Of the order of processes.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="An unchecked budget line is inconclusive (exit 3).")
    ] = False,
    gate_projections: Annotated[
        bool,
        typer.Option(
            "--gate-projections", help="A projected range decides its budget line as well."
        ),
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """Measure bundles: latency, load, first inference, peak memory and exact figures.

    Exit code: 0 every budget of the profiles holds, 1 one is missed, 3 one is unchecked and
    --strict was given, or a limit lies inside a projected range that is to decide.
    """
    from contextlib import ExitStack

    from edgekd.cli.common import bundle_of

    with ExitStack() as stack:
        names = short_names(bundles)
        opened = {name: stack.enter_context(bundle_of(names[name])) for name in names}
        code = _bench(
            opened,
            profiles,
            data,
            rounds,
            seconds,
            on,
            python,
            seed,
            strict,
            gate_projections,
            json_path,
        )
    raise typer.Exit(code)


def _bench(
    opened: dict[str, Bundle],
    profiles: list[str],
    data: Path | None,
    rounds: int,
    seconds: float,
    on: str | None,
    python: str,
    seed: int,
    strict: bool,
    gate_projections: bool,
    json_path: str | None,
) -> int:
    from contextlib import nullcontext

    from edgekd import profiles as known
    from edgekd.bench import budget, render, transport
    from edgekd.bench.measure import compare
    from edgekd.errors import InputError

    everything = profiles == ["all"]
    chosen = [
        known.load(name, Path()) for name in (known.available(Path()) if everything else profiles)
    ]
    if on and len(chosen) != 1:
        raise InputError("--on leads to one machine: name the one --profile that describes it")
    rows = rows_of(list(opened.values()), data)
    found: dict[str, Any] = {name: [] for name in opened}
    skipped = []
    with transport.parse(on, python) if on else nullcontext(transport.Local()) as place:
        for profile in chosen:
            mine = {n: b.path for n, b in opened.items() if b.manifest.target == profile.target}
            if not mine and not everything:
                raise InputError(
                    f"the profile '{profile.name}' runs {profile.target} bundles, and none was"
                    f" given; export one with: edgekd export MODEL --target {profile.target}"
                )
            if not mine:
                skipped.append(f"{profile.name}: no {profile.target} bundle given")
                continue
            measured = compare(
                mine, profile, rows, rounds=rounds, seconds=seconds, seed=seed, transport=place
            )
            for name, measurement in measured.measurements.items():
                found[name].append((profile, measurement))
    lines = [
        line
        for name, pairs in found.items()
        for profile, measurement in pairs
        for line in budget.check(name, profile, measurement, gate_projections=gate_projections)
    ]
    document = {
        "schema": SCHEMA,
        "bundles": {name: [m.to_dict() for _, m in pairs] for name, pairs in found.items()},
        "skipped": skipped,
        "budget": [line.to_dict() for line in lines],
    }
    emit(document, json_path, lambda console: render.bench(console, found, lines, skipped))
    return budget.exit_code(lines, strict)


def short_names(sources: list[str]) -> dict[str, str]:
    """Each bundle by the shortest end of its path that no other shares: no document has paths.

    Raises :class:`InputError` where one is given twice.
    """
    from edgekd.errors import InputError

    parts = {source: Path(source).resolve().parts for source in sources}
    if len(set(parts.values())) < len(sources):
        raise InputError("a bundle is given twice; to see this machine's noise: gate --self-test")
    depth = 1
    while len({own[-depth:] for own in parts.values()}) < len(sources):
        depth += 1
    return {"/".join(own[-depth:]): source for source, own in parts.items()}


def rows_of(bundles: list[Bundle], data: Path | None) -> list[Row]:
    """Rows of ``data``, or those that the first bundle ships."""
    if data is None:
        return list(bundles[0].golden()[0])
    from edgekd import tasks
    from edgekd.data import read_rows

    return list(read_rows(data, tasks.get(bundles[0].manifest.task), labelled=False))
