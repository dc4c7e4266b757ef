"""``edgekd label``: run a teacher once and keep what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.common import JsonOption, emit


def label(
    teacher: Annotated[str, typer.Argument(help="A fine-tuned model: a directory or an id.")],
    data: Annotated[str, typer.Option(help="The rows; labels are not needed.")],
    out: Annotated[Path, typer.Option(help="The signal store, made or added to.")],
    task: Annotated[
        str | None, typer.Option(help="The task; read from the architecture by default.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The data's text column.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16 or float32; what the task needs by default.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens of a distribution over a vocabulary; 0 keeps all."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a row; running text is cut into blocks.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, or ray: over the workers of a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray workers; as many as fit by default.")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster to join (host:port or auto); else one is started here."),
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Store a teacher's signals by content: rows already there are not run again.

    The batches are planned before they are handed out, so the store is the same whatever engine
    ran the teacher; killed anywhere, the same command goes on.
    """
    from contextlib import nullcontext

    from edgekd import data as reading
    from edgekd import models, tasks
    from edgekd.blocks import cut
    from edgekd.cluster import ray_engine
    from edgekd.errors import InputError
    from edgekd.infer import label_into
    from edgekd.pipeline.signals import signal_spec
    from edgekd.signals.store import SignalStore

    if dtype not in (None, "float16", "float32"):
        raise InputError(f"--dtype is float16 or float32, not '{dtype}'")
    if engine not in ("local", "ray"):
        raise InputError(f"--engine is local or ray, not '{engine}'")
    if engine == "local" and (workers or ray_address):
        raise InputError("--workers and --ray-address go with --engine ray")
    chosen = tasks.get(task or models.detect_task(teacher))
    columns = {"text": text} if text else {}
    rows = reading.read_rows(data, chosen, columns, labelled=False)
    loaded = models.load(teacher, chosen, max_length=max_length)
    if chosen.over_vocabulary:
        rows = cut(rows, loaded.preprocessor)  # type: ignore[arg-type]
        top_k = chosen.default_top_k if top_k is None else top_k
    elif top_k is not None:
        raise InputError(f"--top-k is for vocabularies, not for {chosen.name}")
    spec = signal_spec(loaded, chosen, dtype or chosen.signal_dtype, top_k)
    store = SignalStore.open(out, spec)
    with ray_engine(workers, ray_address) if engine == "ray" else nullcontext(map) as mapped:
        new = label_into(store, loaded, rows, chosen, "label", engine=mapped)
    document: dict[str, Any] = {
        "schema": "edgekd.label/1",
        "store": str(out),
        "teacher": loaded.revision,
        "rows": len(rows),
        "labelled": new,
        "stored": len(store),
        "bytes": store.size_bytes,
    }
    emit(
        document,
        json_path,
        lambda console: console.print(
            f"{out}: {document['labelled']:,} rows labelled now, {document['stored']:,} in all,"
            f" {document['bytes'] / max(document['stored'], 1):.0f} bytes a row"
        ),
    )
