import json
from dataclasses import replace

import psutil
import pytest

from edgekd.bench import render
from edgekd.bench.gate import check_comparable, compare_exact, from_dict, gate
from edgekd.bench.sequential import Plan
from edgekd.errors import InconclusiveError, InputError
from edgekd.profiles import Profile

# Two pairs, of which a sign test can say at most p = 0.25, and deaf to the control: these tests are
# about what is measured and kept. What a decision is worth is tested without any process.
SHORT = Plan(looks=(2,), errors=(0.3,), confirm=1, slices=2, control_tolerance=1e9, seed=3)


def test_bundle_with_forty_times_the_work_regresses_and_replays(make_bundle, profile, rows):
    result = gate(make_bundle("base").path, make_bundle("slow", work=40).path, profile, rows, SHORT)
    assert (result.verdict, result.exit_code) == ("regressed", 1)
    assert result.outcome.findings[0].ratio > 2
    document = json.loads(json.dumps(result.to_dict()))
    assert from_dict(document).to_dict() == result.to_dict()
    assert document["plan"]["seed"] == 3 and len(document["pairs"]) == 2
    assert {pair["raw"]["first"] for pair in document["pairs"]} == {"baseline", "candidate"}
    text = json.dumps(document)
    assert str(make_bundle("other").path.parent) not in text  # no path of the machine


def test_memory_and_start_up_are_gated_when_asked(make_bundle, profile, rows):
    metrics = ("memory", "load")
    plan = replace(SHORT, metrics=metrics, errors=(0.5,))  # Holm doubles the smaller p
    small, large = make_bundle("small", megabytes=20), make_bundle("large", megabytes=60)
    result = gate(small.path, large.path, profile, rows, plan)
    memory = next(f for f in result.outcome.findings if f.metric == "memory")
    assert memory.verdict == "regressed"
    assert memory.ratio == pytest.approx(3, rel=0.1)


def test_exact_figures_need_one_look(make_bundle):
    same = compare_exact(make_bundle("a"), make_bundle("b"), 0.0)
    assert {e.verdict for e in same} == {"unchanged"}
    worse = compare_exact(make_bundle("c"), make_bundle("d", work=2), 0.0)
    assert [e.metric for e in worse if e.verdict == "regressed"] == ["ops"]
    assert all(e.verdict == "unchanged" for e in compare_exact(
        make_bundle("e"), make_bundle("f", work=2), 1.0
    ))  # fmt: skip


def test_bundles_that_cannot_be_compared(make_bundle, profile, rows):
    other = make_bundle("other", task="text-classification")
    with pytest.raises(InputError, match="their task differ"):
        gate(make_bundle().path, other.path, profile, rows)


@pytest.mark.parametrize(
    ("left", "right", "fits"),
    [
        (("batch", 1, 8, 8), ("batch", 1, 8, 8), True),
        (("batch", 1, 224, 224), ("batch", 1, 160, 160), False),
        (("batch", 1, 8, "width"), (1, 1, 8, 32), True),
        (("batch", 64), ("batch", 64, 1), False),
    ],
)
def test_inputs_of_other_sizes_are_less_work_and_no_improvement(make_bundle, left, right, fits):
    sides = []
    for name, shape in (("left", left), ("right", right)):
        bundle = make_bundle(name)
        spec = replace(bundle.manifest.inputs[0], shape=shape)
        sides.append(replace(bundle, manifest=replace(bundle.manifest, inputs=(spec,))))
    if fits:
        check_comparable(*sides)
        return
    with pytest.raises(InputError, match="their inputs differ") as raised:
        check_comparable(*sides)
    assert all(", ".join(map(str, shape)) in str(raised.value) for shape in (left, right))


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_exact_figure_that_one_side_lacks_is_said(make_bundle, profile, rows, side):
    paths = {name: make_bundle(name, **({"ops": {}} if name == side else {})).path
             for name in ("baseline", "candidate")}  # fmt: skip
    result = gate(paths["baseline"], paths["candidate"], profile, rows, SHORT)
    lacking = next(exact for exact in result.exact if exact.metric == "ops")
    assert lacking.verdict == "missing" and getattr(lacking, side) is None
    assert "| ops | ❔ missing |" in render.gate_markdown(result)
    render.gate_chart(result)


@pytest.mark.parametrize("plan", [Plan(tolerance=0.0), Plan(tolerance=5), Plan(metrics=("p99",))])
def test_plans_that_cannot_be_followed(make_bundle, profile, rows, plan):
    path = make_bundle().path
    with pytest.raises(InputError):
        gate(path, path, profile, rows, plan)


def test_hardware_elsewhere_is_not_gated_here(make_bundle, rows):
    figure = {"value": "8 GB", "source": "https://example.org/x"}
    phone = Profile(
        name="phone", title="phone", target="probe", where="elsewhere",
        hardware={"cpu": figure, "memory": figure},
    )  # fmt: skip
    path = make_bundle().path
    with pytest.raises(InputError, match="not this machine"):
        gate(path, path, phone, rows, SHORT)


def test_interpreter_cannot_be_gated(make_bundle, profile, rows):
    path = make_bundle(kind="reference").path
    with pytest.raises(InputError, match="interpreter"):
        gate(path, path, profile, rows, SHORT)


def test_runner_that_dies_leaves_no_process(make_bundle, profile, rows):
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with pytest.raises(InconclusiveError, match="luck"):
        gate(make_bundle().path, make_bundle("bad", fail="die").path, profile, rows, SHORT)
    assert {p.pid for p in psutil.Process().children(recursive=True)} == before


def test_record_of_something_else():
    with pytest.raises(InputError, match="not a recorded gate"):
        from_dict({"schema": "edgekd.bench/1"})
