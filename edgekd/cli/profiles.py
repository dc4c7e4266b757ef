"""``edgekd profiles``: the hardware that numbers are about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console

    from edgekd.profiles import Profile


_SHOWN = ("target", "where", "device", "runtime", "memory_cap", "budget", "clients", "price")


def profiles(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Profiles to show and validate; all when none is named."),
    ] = None,
    beside: Annotated[
        Path, typer.Option(help="Folder of your own profiles (where the recipe lies).")
    ] = Path(),
    json_path: JsonOption = None,
) -> None:
    """List, show and validate profiles. A fault in one is exit 2, with the figure named."""
    from edgekd import profiles as known

    chosen = [known.load(name, beside) for name in names or known.available(beside)]
    document = {
        "schema": "edgekd.profiles/1",
        "profiles": [profile.model_dump(mode="json") for profile in chosen],
    }
    show = _details if names else _table
    emit(document, json_path, lambda console: show(console, chosen))


def _table(console: Console, chosen: list[Profile]) -> None:
    from rich.table import Column, Table

    table = Table(
        Column("profile", no_wrap=True), "target", "hardware", "threads", "memory cap", "title"
    )
    for profile in chosen:
        cap = profile.memory_cap_bytes
        table.add_row(
            profile.name,
            profile.target,
            "this machine" if profile.where == "host" else "elsewhere",
            str(profile.runtime.threads),
            f"{cap / 2**20:.0f} MiB" if cap else "-",
            profile.title,
        )
    console.print(table)


def _details(console: Console, chosen: list[Profile]) -> None:
    for profile in chosen:
        console.print(f"{profile.name}: {profile.title}", markup=False)
        values: dict[str, Any] = profile.model_dump(mode="json", exclude_none=True)
        for name in _SHOWN:
            if values.get(name):
                console.print(f"  {name}: {_words(values[name])}", markup=False)
        for name, figure in profile.hardware.items():
            console.print(f"  {name}: {figure.value}  ({figure.source})", markup=False)


def _words(value: Any) -> str:
    """``threads 1, spinning False`` for a section, the value itself otherwise; sizes are bytes."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {item}" for name, item in value.items() if item not in ({}, None))
