"""``export``, ``verify`` and ``quantize`` alone, on models that this project never saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd.bundle import Bundle
from edgekd.cli.selection import apart, divided
from edgekd.errors import InputError, VerificationError
from edgekd.pipeline import precision
from tests.conftest import write_csv

Cli = Callable[..., Any]


def test_export_quantize_verify(edgekd: Cli, bert_dir: Path, intents: Any, tmp_path: Path) -> None:
    """The way of a user: a float bundle scored on data, compressed, each verified."""
    out, small = tmp_path / "bundle", tmp_path / "small"
    answer = edgekd("export", bert_dir, "--out", out, "--data", intents.test, "--json", "-")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["schema"] == "edgekd.export/1"
    assert (document["precision"], document["evaluation"]["retained"]) == ("fp32", 1)
    assert document["evaluation"]["agreement"] == 1
    assert 0 <= document["relative_error"] < 1e-4
    assert str(out) in answer.err and "100.00%" in answer.err

    answer = edgekd("quantize", out, "--precision", "int8", "--out", small, "--json", "-")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["size_bytes"] == Bundle.open(small).size_bytes
    for folder in (out, small):
        answer = edgekd("verify", folder, "--json", "-")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["status"] == "passed"
    again = edgekd("quantize", out, "--precision", "int8", "--out", out)
    assert again.code == 2 and Bundle.open(out).manifest.precision == "fp32"


def test_export_of_an_image_model(edgekd: Cli, vit_dir: Path, tmp_path: Path) -> None:
    answer = edgekd("export", vit_dir, "--out", tmp_path / "vit", "--batch", 1)
    assert answer.code == 0, answer.err
    assert Bundle.open(tmp_path / "vit").manifest.inputs[0].shape == (1, 1, 8, 8)
    assert edgekd("verify", tmp_path / "vit").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "onx"], "did you mean 'onnx'"),
        (["--precision", "int7"], "did you mean 'int8'"),
        (["--task", "text-clasification"], "did you mean 'text-classification'"),
        (["--task", "image-classification"], "has no head for image-classification"),
        (["--length", "4000"], "more than the 48 tokens"),
        (["--precision", "int8,fp32"], "holds one precision"),
        (["--target", "browser", "--precision", "int8,int8-full"], "are both 'q8'"),
        (["--max-size", "6 MB"], "--max-size says how auto may choose; add --precision auto"),
        (["--max-drop", "0"], "--max-drop says how auto may choose; add --precision auto"),
        (["--profile", "host", "--precision", "int8"], "--profile says how auto may choose"),
        (["--precision", "auto", "--select", "x", "--max-latency", "soon"], "not a duration"),
        (["--precision", "auto", "--select", "x", "--profile", "browser"], "runs browser bundles"),
        (["--length", "0"], "--length"),
        (["--batch", "0"], "--batch"),
        (["--max-length", "-3"], "--max-length"),
        (["--deployment", "foo"], "opset"),
        (["--data", "nowhere.csv"], "nowhere.csv does not exist"),
    ],
)
def test_export_refuses(
    edgekd: Cli, bert_dir: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    answer = edgekd("export", bert_dir, "--out", tmp_path / "x", *options)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert not list(tmp_path.iterdir())


def test_strange_labels_are_told_before_anything_is_written(
    edgekd: Cli, bert_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,crad\n")
    answer = edgekd("export", bert_dir, "--out", tmp_path / "x", "--data", tmp_path / "rows.csv")
    assert answer.code == 2 and "did you mean 'card'" in answer.err
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_rows_that_choose_are_not_those_that_report(
    edgekd: Cli, bert_dir: Path, intents: Any, tmp_path: Path
) -> None:
    answer = edgekd(
        *("export", bert_dir, "--out", tmp_path / "x", "--precision", "auto"),
        *("--select", intents.test, "--data", intents.test),
    )
    assert answer.code == 2 and not list(tmp_path.iterdir())
    assert "48 of 48 rows of --data (100.0%) also stand in --select" in answer.err


def test_the_few_rows_that_both_have_are_not_chosen_on(capsys: pytest.CaptureFixture[str]) -> None:
    selection, test = ([{"text": f"{name} {i}"} for i in range(60)] for name in "ab")
    assert apart([*selection, test[7]], test) == selection
    assert "1 rows of --select also stand in --data: left out" in capsys.readouterr().err
    assert apart([*selection, test[7]], test, "--calibration") == selection
    assert "1 rows of --calibration" in capsys.readouterr().err


def test_activation_ranges_come_from_rows_that_nothing_is_chosen_on() -> None:
    rows = [{"text": f"row {i:03}"} for i in range(50)]
    chosen_on, ranging = divided([*rows, rows[0]], 128)
    assert len({row["text"] for row in ranging}) == 10
    assert not [row for row in chosen_on if row in ranging]
    assert {row["text"] for row in (*chosen_on, *ranging)} == {row["text"] for row in rows}
    assert len(divided([{"text": f"row {i}"} for i in range(999)], 128)[1]) == 128
    for few in (rows[:4], rows[:1] * 9):
        with pytest.raises(InputError, match=r"--select has . rows that differ, too few"):
            divided(few, 128)


def test_activation_ranges_come_from_queries_that_nothing_is_chosen_on() -> None:
    pairs = [{"text": f"q{i % 10}", "passage": f"p{i}"} for i in range(50)]
    chosen_on, ranging = divided(pairs, 128, ("text",))
    asked = {row["text"] for row in ranging}
    assert len(asked) == 2 and len(ranging) == 10  # with all their candidates
    assert not [row for row in chosen_on if row["text"] in asked]
    assert len(chosen_on) == 40
    chosen_on, ranging = divided(pairs, 3, ("text",))  # no more queries than are needed
    assert (len(chosen_on), len(ranging)) == (45, 3)
    with pytest.raises(InputError, match="--select has 4 groups of rows that differ, too few"):
        divided([row for row in pairs if row["text"] < "q4"], 128, ("text",))


def test_a_ranking_is_divided_by_its_queries(edgekd: Cli, bert_dir: Path, tmp_path: Path) -> None:
    rows = [{"query": f"q{i % 4}", "passage": f"p{i}", "label": i % 2} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--task", "text-ranking", "--precision", "auto", "--select", tmp_path / "pairs.jsonl"]
    answer = edgekd("export", bert_dir, *given, "--out", tmp_path / "bundle")
    assert answer.code == 2 and "4 groups of rows that differ, too few" in answer.err


def test_verify_says_no(
    edgekd: Cli, intent_bundle: Path, copied: Callable[[Path], Path], tmp_path: Path
) -> None:
    """1 where the numbers are wrong, 2 where a file was altered or is missing."""
    import dataclasses

    import numpy as np

    from edgekd.bundle import MANIFEST, sha256

    folder = copied(intent_bundle)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    answer = edgekd("verify", folder)
    assert answer.code == 2 and "sha256 differs" in answer.err
    assert edgekd("verify", tmp_path / "nowhere").code == 2

    forged = Path(str(folder) + "-forged")
    forged.mkdir()
    for file in intent_bundle.iterdir():
        (forged / file.name).write_bytes(file.read_bytes())
    bundle = Bundle.open(forged)
    _, inputs, outputs = bundle.golden()
    arrays = {f"in.{name}": array for name, array in inputs.items()}
    np.savez(forged / "golden.npz", **arrays, **{"out.logits": -outputs["logits"]})
    files = {name: sha256(forged / name) for name in bundle.manifest.files}
    manifest = dataclasses.replace(bundle.manifest, files=files)
    manifest = dataclasses.replace(manifest, digest=manifest.seal())
    (forged / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest)))
    answer = edgekd("verify", forged, "--json", "-")
    assert answer.code == 1
    document = json.loads(answer.out)
    assert document["status"] == "failed" and "golden value" in document["failure"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int3"], "did you mean 'int8'"),
        (["--precision", "int8", "--keep", "bert.nowhere"], "no group 'bert.nowhere'"),
        (["--precision", "int8", "--data", "nowhere.csv"], "nowhere.csv does not exist"),
    ],
)
def test_quantize_refuses(
    edgekd: Cli, intent_bundle: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    answer = edgekd("quantize", intent_bundle, "--out", tmp_path / "q", *options)
    assert (answer.code, message in answer.err) == (2, True), answer.err
    assert not list(tmp_path.iterdir())


def test_of_two_bundles_of_a_slot_the_first_stays(
    intent_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``int8,auto`` where auto lands on the same file of a browser folder."""
    from dataclasses import replace

    from edgekd import exporter as exporters
    from edgekd.cli.export import _first_of_slots

    whole = Bundle.open(intent_bundle)
    int8, fp32, full = (
        replace(whole, manifest=replace(whole.manifest, precision=name))
        for name in ("int8", "fp32", "int8-full")
    )
    assert _first_of_slots(exporters.get("browser"), [int8, fp32, full]) == [int8, fp32]
    assert "int8 is the folder's 'q8' already, so int8-full is left out" in capsys.readouterr().err


def test_what_is_told_of_auto_is_its_own_choice(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from edgekd.cli.export import _show

    chosen = {"precision": "int8-full", "kept": [], "latency_ms": None, "size_bytes": 1}
    document = {"bundle": "x", "target": "browser", "variant": "fp32+int8-full", "size_bytes": 1}
    document |= {"relative_error": 0.0, "precision": "fp32", "findings": []}
    search = {"chosen": chosen, "timing": {"note": ""}, "rows": 40, "max_drop": 0.01, "trials": []}
    document["search"] = search
    _show(Console(width=200), document)
    told = capsys.readouterr().out
    assert "auto chose int8-full" in told and "auto chose on 40 selection rows" in told


def test_rows_without_labels_set_the_activation_ranges(
    edgekd: Cli, bert_dir: Path, intents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, rows = tmp_path / "texts.csv", intents.train_rows
    texts.write_text("text\n" + "\n".join(row["text"] for row in rows[:48]) + "\n")
    select = write_csv(tmp_path / "select.csv", rows[48:])
    given = ("--precision", "int8-static", "--calibration", texts, "--data", intents.test)
    answer = edgekd("export", bert_dir, "--out", tmp_path / "x", *given, "--json", "-")
    assert answer.code == 0 and json.loads(answer.out)["precision"] == "int8-static"
    # With auto every row of --select is then chosen on.
    asked: list[precision.Search] = []

    def search(given: precision.Search, budget: Any) -> Any:
        asked.append(given)
        raise VerificationError("enough is known")

    monkeypatch.setattr(precision, "auto", search)
    given = ("--precision", "auto", "--select", select, "--calibration", texts)
    assert edgekd("export", bert_dir, "--out", tmp_path / "y", *given).code == 1
    assert [len(asked[0].selection), len(asked[0].calibration)] == [48, 48]
    for option, others in (("--data", intents.test), ("--select", select)):
        answer = edgekd(
            *("export", bert_dir, "--out", tmp_path / "z", "--precision", "int8-static"),
            *("--calibration", others, option, others),
        )
        assert answer.code == 2
        assert f"48 rows of {option} (100.0%) also stand in --calibration" in answer.err


def test_activation_ranges_are_never_taken_from_made_up_rows(
    edgekd: Cli, bert_dir: Path, intent_bundle: Path, tmp_path: Path
) -> None:
    answer = edgekd("export", bert_dir, "--out", tmp_path / "x", "--precision", "int8-static")
    assert answer.code == 2 and "give --calibration (or --select)" in answer.err
    answer = edgekd(
        "quantize", intent_bundle, "--precision", "int8-static", "--out", tmp_path / "y"
    )
    assert answer.code == 2 and "give --data" in answer.err
    assert not list(tmp_path.iterdir())
