"""The store gives back what the teacher said, whatever happens to the disk or the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import EdgekdError, InputError
from edgekd.signals import Field, SignalSpec, SignalStore, key, keys, label, pad, shard

ROWS = [{"text": f"row {i} " + "x" * (i % 7)} for i in range(300)]
SPEC = SignalSpec("teacher-1", "tokenizer-1", {"logits": Field("float16", (5,))})


def teacher(rows):
    """Logits that depend on the text alone."""
    values = [np.frombuffer(key(row), np.uint8)[:5] for row in rows]
    return {"logits": np.array(values, np.float32) / 8}


def expected(rows):
    return teacher(rows)["logits"].astype(np.float16)


def files(path):
    return {f.name: f.read_bytes() for f in sorted(path.iterdir())}


def filled(path, rows=ROWS, shard_rows=64):
    store = SignalStore.open(path, SPEC)
    label(rows, keys(rows), teacher, store, 16, shard_rows=shard_rows)
    return store


def test_signals_come_back_by_content_in_any_order(tmp_path):
    filled(tmp_path)
    store = SignalStore.open(tmp_path, SPEC)
    shuffled = [ROWS[i] for i in np.random.default_rng(0).permutation(len(ROWS))]
    np.testing.assert_array_equal(store.get(keys(shuffled))["logits"], expected(shuffled))
    assert len(store) == len(ROWS)


def test_new_data_labels_only_what_is_new(tmp_path):
    filled(tmp_path, ROWS[:200])
    seen = []

    def recording(rows):
        seen.extend(row["text"] for row in rows)
        return teacher(rows)

    store = SignalStore.open(tmp_path, SPEC)
    more = ROWS + ROWS[:50]  # repeats are labelled once
    assert label(more, keys(more), recording, store, 16, shard_rows=64) == 100
    assert sorted(seen) == sorted(row["text"] for row in ROWS[200:])
    np.testing.assert_array_equal(store.get(keys(more))["logits"], expected(more))


def test_progress_reaches_the_total(tmp_path):
    calls = []
    store = SignalStore.open(tmp_path, SPEC)
    label(ROWS, keys(ROWS), teacher, store, 16, lambda *a: calls.append(a), shard_rows=64)
    assert calls[-1] == (300, 300)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 5))
def test_the_order_of_writing_does_not_show(tmp_path_factory, order, interrupted):
    """Shards handed out to workers and finished in any order, with a restart in between."""
    from edgekd.signals import plan

    reference = tmp_path_factory.mktemp("reference")
    filled(reference)
    path = tmp_path_factory.mktemp("scattered")
    store = SignalStore.open(path, SPEC)
    planned = plan(keys(ROWS), store, 64)
    for number in order[:interrupted]:
        part = [ROWS[i] for i in planned[number]]
        label(part, keys(part), teacher, store, 16, shard_rows=64)
    filled(path)
    assert files(path) == files(reference)


WORKER = textwrap.dedent(
    """
    import sys, time, numpy as np
    from pathlib import Path
    from edgekd.signals import Field, SignalSpec, SignalStore, key, keys, label
    rows = [{"text": f"row {i} " + "x" * (i % 7)} for i in range(300)]
    def teacher(batch):
        time.sleep(0.004)
        values = [np.frombuffer(key(row), np.uint8)[:5] for row in batch]
        return {"logits": np.array(values, np.float32) / 8}
    spec = SignalSpec("teacher-1", "tokenizer-1", {"logits": Field("float16", (5,))})
    store = SignalStore.open(Path(sys.argv[1]), spec)
    print("started", flush=True)
    label(rows, keys(rows), teacher, store, 8, shard_rows=16)
    """
)


def test_killed_and_finished_equals_undisturbed(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run([sys.executable, "-c", WORKER, str(undisturbed)], check=True)
    random = np.random.default_rng(1)
    deaths = 0
    for _ in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(killed)], stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(random.uniform(0, 0.1))
        os.kill(worker.pid, signal.SIGKILL)
        deaths += worker.wait() == -signal.SIGKILL
    assert deaths
    subprocess.run([sys.executable, "-c", WORKER, str(killed)], check=True)
    assert files(killed) == files(undisturbed)


def test_two_labellers_at_once_end_with_the_same_store(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    subprocess.run([sys.executable, "-c", WORKER, str(alone)], check=True)
    pair = [subprocess.Popen([sys.executable, "-c", WORKER, str(together)]) for _ in range(2)]
    assert [process.wait() for process in pair] == [0, 0]
    assert files(together) == files(alone)


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "header"])
def test_a_damaged_shard_is_relabelled_not_used(tmp_path, harm):
    filled(tmp_path)
    before = files(tmp_path)
    victim = sorted(tmp_path.glob("*.safetensors"))[2]
    content = bytearray(victim.read_bytes())
    if harm == "cut":
        del content[-7:]
    elif harm == "empty":
        content.clear()
    elif harm == "header":
        content[20] ^= 0xFF
    else:
        content[-3] ^= 1
    victim.write_bytes(content)
    store = SignalStore.open(tmp_path, SPEC)
    assert list(store.damaged) == [victim.name]
    lost = store.missing(keys(ROWS))
    assert 0 < len(lost) <= 64
    with pytest.raises(InputError, match="label them first"):
        store.get(lost)
    assert label(ROWS, keys(ROWS), teacher, store, 16, shard_rows=64) == len(lost)
    assert files(tmp_path) == before


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path, monkeypatch):
    store = filled(tmp_path, ROWS[:64])
    before = files(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EdgekdError, match="No space left on device"):
        label(ROWS, keys(ROWS), teacher, store, 16, shard_rows=64)
    assert files(tmp_path) == before


def test_another_teacher_or_preprocessing_is_refused(tmp_path):
    filled(tmp_path)
    for spec, reason in (
        (SignalSpec("teacher-2", "tokenizer-1", SPEC.fields), "another teacher revision"),
        (SignalSpec("teacher-1", "tokenizer-2", SPEC.fields), "another preprocessing"),
        (SignalSpec("teacher-1", "tokenizer-1", {"hidden": Field("float16", (None, 4))}), "lack"),
        (SignalSpec("teacher-1", "tokenizer-1", {"logits": Field("float16", (6,))}), "lack"),
    ):
        with pytest.raises(InputError, match=f"{reason}.*another folder"):
            SignalStore.open(tmp_path, spec)


def test_a_wider_store_serves_as_well_and_a_narrower_does_not(tmp_path):
    wide = SignalSpec(SPEC.teacher, SPEC.preprocessing, {"logits": Field("float32", (5,))})
    SignalStore.open(tmp_path / "wide", wide)
    store = SignalStore.open(tmp_path / "wide", SPEC)
    store.append(keys(ROWS[:1]), {"logits": np.full((1, 5), 2013.4, np.float32)})
    assert store.get(keys(ROWS[:1]))["logits"][0, 0] == np.float32(2013.4)
    SignalStore.open(tmp_path / "narrow", SPEC)
    with pytest.raises(InputError, match="lack 'logits' as float32"):
        SignalStore.open(tmp_path / "narrow", wide)


def test_a_store_opens_without_a_spec_only_where_there_is_one(tmp_path):
    filled(tmp_path)
    assert SignalStore.open(tmp_path).spec == SPEC
    with pytest.raises(InputError, match="not a signal store"):
        SignalStore.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "NaN"), (np.inf, "NaN or infinity"), (1e6, "too large for")]
)
def test_a_signal_that_is_no_number_is_refused(tmp_path, value, reason):
    store = SignalStore.open(tmp_path, SPEC)
    logits = np.zeros((2, 5), np.float32)
    logits[1, 3] = value
    with pytest.raises(InputError, match=reason):
        store.append(keys(ROWS[:2]), {"logits": logits})
    assert len(store) == 0


def test_wrong_shapes_and_names_are_refused(tmp_path):
    store = SignalStore.open(tmp_path, SPEC)
    for signals, reason in (
        ({"logits": np.zeros((2, 4))}, "shape"),
        ({"logits": np.zeros((3, 5))}, "3 rows for 2 keys"),
        ({"embeddings": np.zeros((2, 5))}, "was not asked for"),
    ):
        with pytest.raises(InputError, match=reason):
            store.append(keys(ROWS[:2]), signals)
    narrow = SignalSpec("t", "p", {"indices": Field("uint8", (1,))})
    with pytest.raises(InputError, match="does not fit uint8"):
        SignalStore.open(tmp_path / "narrow", narrow).append(
            keys(ROWS[:1]), {"indices": np.array([[300]])}
        )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 16))
def test_ragged_signals_come_back_row_by_row(tmp_path_factory, lengths, shard_rows):
    path = tmp_path_factory.mktemp("ragged")
    spec = SignalSpec("t", "p", {"hidden": Field("float16", (None, 3))})
    rows = [{"text": f"{i}"} for i in range(len(lengths))]

    def run(batch):
        return {
            "hidden": [
                np.full((lengths[int(row["text"])], 3), int(row["text"]), np.float32)
                for row in batch
            ]
        }

    label(rows, keys(rows), run, SignalStore.open(path, spec), 4, shard_rows=shard_rows)
    got = SignalStore.open(path, spec).get(keys(rows))["hidden"]
    assert [len(part) for part in got] == lengths
    for number, part in enumerate(got):
        np.testing.assert_array_equal(part, run([rows[number]])["hidden"][0])
    array, mask = pad(got)
    assert array.shape == (len(rows), max(lengths), 3)
    assert mask.sum(1).tolist() == lengths


def test_a_shard_is_a_safetensors_file(tmp_path):
    from safetensors.numpy import load_file

    filled(tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        theirs, ours = load_file(file), shard.read(file, verify=True)
        assert theirs.keys() == ours.keys()
        for name, array in theirs.items():
            np.testing.assert_array_equal(array, ours[name])


def test_two_writers_that_meet_the_same_row_keep_one(tmp_path):
    first, second = SignalStore.open(tmp_path, SPEC), SignalStore.open(tmp_path, SPEC)
    first.append(keys(ROWS[:10]), teacher(ROWS[:10]))
    second.append(keys(ROWS[5:15]), teacher(ROWS[5:15]))
    store = SignalStore.open(tmp_path, SPEC)
    assert len(store) == 15
    np.testing.assert_array_equal(store.get(keys(ROWS[:15]))["logits"], expected(ROWS[:15]))


def test_an_altered_index_is_noticed(tmp_path):
    filled(tmp_path)
    index = next(tmp_path.glob("index-*.bin"))
    entries = np.fromfile(index, [("key", "S16"), ("row", "<u4")])
    entries["row"] = np.roll(entries["row"], 1)
    entries.tofile(index)
    with pytest.raises(InputError, match="index"):
        SignalStore.open(tmp_path, SPEC).get(keys(ROWS))


def test_a_store_that_cannot_be_written_is_still_read(tmp_path, monkeypatch):
    filled(tmp_path)
    next(tmp_path.glob("index-*.bin")).unlink()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    store = SignalStore.open(tmp_path, SPEC)
    np.testing.assert_array_equal(store.get(keys(ROWS))["logits"], expected(ROWS))
    assert not list(tmp_path.glob("index-*.bin"))


def test_reading_needs_no_torch(tmp_path):
    filled(tmp_path)
    code = (
        "import sys; from edgekd.signals import SignalStore;"
        f"assert len(SignalStore.open({str(tmp_path)!r})) == 300;"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_manifest_is_json_a_person_can_read(tmp_path):
    filled(tmp_path)
    manifest = json.loads((tmp_path / "store.json").read_text())
    assert manifest["schema"] == "edgekd.signals/1"
    assert manifest["fields"] == {"logits": ["float16", [5]]}
