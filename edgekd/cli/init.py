"""``edgekd init``: a recipe to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TEMPLATE = """\
# edgekd run {file}
name: {name}
task: text-classification        # or image-, audio-, …
teacher: your-org/your-fine-tuned-model   # a directory or a Hugging Face id
# teacher: {{base: your-org/base-model}}    # … or a base model, fitted on your labels first
data:
  train: train.csv               # CSV, TSV, JSON Lines, Parquet, a data set id or folder
  test: test.csv                 # only reports; nothing is ever chosen on it
  # unlabelled: more.csv         # the teacher labels these
  # served: logs.csv             # what production sees: a warning where it looks different
  # text: text                   # column names, where they are not found by themselves
  # label: label
student:
  layers: [0, 5]                 # of the teacher, counted from 0; or, instead, a limit:
  # params: 12%                  # of the teacher's, or 2M: the shape is chosen, with its reason
  vocabulary: trim               # keep only the pieces that the task uses
distill:
  epochs: 8
  learning_rate: 3e-4
  temperature: 2
targets:
  onnx: {{precisions: [fp32, int8]}}
profiles: [host]                 # this machine; `edgekd profiles` lists the others
budget:                          # what the device allows; missing it is exit code 1
  retained: 98%
  size: 10 MB
  speedup: 3x
"""


def init(
    file: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe to start from; an existing file is left alone."""
    from edgekd.errors import InputError

    if file.exists():
        raise InputError(f"{file} exists already; name another file or remove it")
    if not file.parent.is_dir():
        raise InputError(f"the folder {file.parent} does not exist; make it first")
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in file.stem).strip("._-")
    file.write_text(TEMPLATE.format(file=file, name=name or "recipe"), encoding="utf-8")
    print(f"wrote {file}; fill in teacher and data, then: edgekd run {file}")
