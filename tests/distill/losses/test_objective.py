"""Losses combine under weights; what cannot be meant is refused before training."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from edgekd.distill.losses import LOSSES, Law, Objective, check_weights, layer_map
from edgekd.distill.losses.hard import cross_entropy
from edgekd.errors import InputError


class Student(nn.Module):
    def __init__(self, width=6, classes=5):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, width), nn.Linear(width, classes)

    def forward(self, x):
        hidden = self.body(x)
        return {"logits": self.head(hidden.mean(1)), "hidden_states": [hidden]}


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return {
        "x": torch.randn(8, 3, 4),
        "labels": torch.randint(0, 5, (8,)),
        "teacher.logits": torch.randn(8, 5) * 3,
        "teacher.hidden_states": [torch.randn(8, 3, 10)],
        "attention_mask": torch.ones(8, 3, dtype=torch.bool),
    }


WIDTHS = {"hidden": {"student_width": 6, "teacher_width": 10}}


def test_the_total_is_the_weighted_sum(batch):
    student = Student()
    outputs = student(batch["x"])
    objective = Objective({"softened_kl": 0.9, "cross_entropy": 0.1, "hidden": 2.0}, WIDTHS)
    values = objective(outputs, batch)
    assert list(values) == ["softened_kl", "cross_entropy", "hidden"]
    for name, weight in (("softened_kl", 0.9), ("cross_entropy", 0.1), ("hidden", 2.0)):
        torch.testing.assert_close(values[name], weight * objective.value(name, outputs, batch))


def test_hard_only_is_training_without_a_teacher(batch):
    student = Student()
    objective = Objective({"softened_kl": 0.0, "cross_entropy": 1.0})
    del batch["teacher.logits"]  # not even looked at
    sum(objective(student(batch["x"]), batch).values()).mean().backward()
    ours = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    nn.functional.cross_entropy(student(batch["x"])["logits"], batch["labels"]).backward()
    for left, right in zip(ours, student.parameters(), strict=True):
        torch.testing.assert_close(left, right.grad)


def test_gradient_shares_sum_to_one_and_show_a_term_without_effect(batch):
    student = Student()
    weights = {"softened_kl": 0.9, "cross_entropy": 0.1, "hidden": 1e-9}
    objective = Objective(weights, WIDTHS)
    shares = objective.gradient_shares(student(batch["x"]), batch, student.parameters())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["hidden"] < 1e-6 < shares["cross_entropy"] < shares["softened_kl"]


def test_gradient_shares_leave_the_gradients_alone(batch):
    student = Student()
    outputs = student(batch["x"])
    objective = Objective({"softened_kl": 1.0})
    assert objective.gradient_shares(outputs, batch, student.parameters()) == {"softened_kl": 1.0}
    assert all(p.grad is None for p in student.parameters())
    sum(objective(outputs, batch).values()).mean().backward()  # the graph is still there


def test_projections_belong_to_the_loss_and_are_trained_with_it(batch):
    student = Student()
    objective = Objective({"hidden": 1.0}, WIDTHS)
    (projection,) = objective.parameters()
    assert projection.shape == (10, 6)
    before, losses = set(student.state_dict()), []
    optimiser = torch.optim.Adam([*student.parameters(), *objective.parameters()], 0.01)
    for _ in range(20):
        optimiser.zero_grad()
        loss = sum(objective(student(batch["x"]), batch).values()).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert set(student.state_dict()) == before
    same_width = Objective({"hidden": 1.0})
    assert list(same_width.parameters()) == []


def test_micro_batches_add_up_to_the_batch(batch):
    """Gradient accumulation: weighted by their sizes, the parts' means are the whole's mean."""
    student = Student()
    objective = Objective({"softened_kl": 0.7, "cross_entropy": 0.3}, parts=2)
    sum(objective(student(batch["x"]), batch).values()).mean().backward()
    whole = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    student.zero_grad()
    for part in (slice(0, 3), slice(3, 8)):
        piece = {k: v[part] for k, v in batch.items() if k != "teacher.hidden_states"}
        values = sum(objective(student(piece["x"]), piece).values())
        (values.sum() / 8).backward()
    for left, right in zip(whole, student.parameters(), strict=True):
        torch.testing.assert_close(left, right.grad)


@pytest.mark.parametrize("name", ["dist", "embedding_contrastive"])
def test_coupled_losses_are_refused_in_parts(name):
    assert LOSSES[name].couples_samples
    Objective({name: 1.0}, parts=1)
    with pytest.raises(InputError, match="compares the samples of a batch"):
        Objective({name: 1.0}, parts=2)


@pytest.mark.parametrize(
    ("weights", "settings", "reason"),
    [
        ({"softened_kl": 0.0, "cross_entropy": 0}, {}, "sum to nothing"),
        ({}, {}, "sum to nothing"),
        ({"softened_kl": -1.0}, {}, "0 or more"),
        ({"softened_kl": math.nan}, {}, "0 or more"),
        ({"softend_kl": 1.0}, {}, "did you mean 'softened_kl'"),
        ({"softened_kl": 1.0}, {"softened_kl": {"temprature": 2}}, "did you mean 'temperature'"),
        ({"softened_kl": 1.0}, {"dist": {}}, "no weight"),
        ({"hidden": 1.0}, {"hidden": {"layers": ()}}, "at least one pair"),
    ],
)
def test_what_cannot_be_meant_is_refused(weights, settings, reason):
    with pytest.raises(InputError, match=reason):
        Objective(weights, settings)


@pytest.mark.parametrize("name", ["decoupled_kl", "standardised_kl"])
def test_two_classes_are_refused_with_a_reason(name):
    with pytest.raises(InputError, match="at least 3 classes"):
        Objective({name: 1.0}, classes=2)
    pair = torch.randn(4, 2)
    inputs = [pair, pair] + [torch.zeros(4, dtype=torch.long)] * (name == "decoupled_kl")
    with pytest.raises(InputError, match="two"):
        LOSSES[name].make()(*inputs)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", [n for n, x in LOSSES.items() if "temperature" in x.settings()])
def test_a_temperature_that_softens_nothing_is_refused(name, temperature):
    from inputs import make

    loss = LOSSES[name]
    with pytest.raises(InputError, match="temperature"):
        Objective({name: 1.0}, {name: {"temperature": temperature}})(*make(loss, 0, 2, [2, 2]))


def test_a_sample_below_one_degree_is_refused():
    from inputs import make

    loss = LOSSES["softened_kl_sampled"]
    with pytest.raises(InputError, match="at least 1"):
        loss.make({"temperature": 0.5})(*[make(loss, 0, 2, [2, 2])[0]["logits"]] * 5)


def test_other_label_sets_are_refused():
    with pytest.raises(InputError, match="same"):
        LOSSES["softened_kl"].make()(torch.randn(4, 5), torch.randn(4, 6))


def test_a_signal_that_was_not_stored_is_named(batch):
    with pytest.raises(InputError, match=r"'relation' reads 'student.qkv'"):
        Objective({"relation": 1.0})(Student()(batch["x"]), batch)
    assert Objective({"relation": 1.0, "softened_kl": 1.0}).reads == [
        "student.logits", "student.qkv", "teacher.logits", "teacher.qkv",
    ]  # fmt: skip


def test_layer_maps_are_even_by_default_and_checked():
    assert layer_map(2, 6) == [(0, 2), (1, 5)]
    assert layer_map(4, 6) == [(0, 0), (1, 2), (2, 3), (3, 5)]
    assert layer_map(2, 6, [(0, 0), (-1, -1)]) == [(0, 0), (1, 5)]
    with pytest.raises(InputError, match="layer 6 of the teacher, which has 6"):
        layer_map(2, 6, [(0, 1), (1, 6)])
    with pytest.raises(InputError, match="layer 2 of the student"):
        layer_map(2, 6, [(2, 1)])


def test_relation_heads_must_divide_the_width():
    qkv = torch.randn(2, 3, 3, 10)
    with pytest.raises(InputError, match="do not divide the width 10"):
        LOSSES["relation"].make({"heads": 3})(qkv, qkv)
    with pytest.raises(InputError, match="one tokenizer"):
        LOSSES["relation"].make({"heads": 2})(qkv, torch.randn(2, 4, 3, 10))
    with pytest.raises(InputError, match="unknown relation"):
        LOSSES["relation"].make({"heads": 2, "pairs": ("q-w",)})(qkv, qkv)


def test_unlabelled_rows_add_nothing_and_still_count():
    logits, labels = torch.randn(4, 5), torch.tensor([1, -100, 2, -100])
    values = cross_entropy(logits, labels)
    assert values[1] == values[3] == 0
    assert values[0] > 0


def test_half_precision_is_widened():
    student, teacher = torch.randn(4, 3000).half(), torch.randn(4, 3000).half()
    assert LOSSES["softened_kl"].make()(student, teacher).dtype == torch.float32


def test_check_weights_returns_them():
    assert check_weights({"softened_kl": 1, "dist": 0}) == {"softened_kl": 1, "dist": 0}


def test_the_table_is_printed():
    output = subprocess.run(
        [sys.executable, "-m", "edgekd.distill.losses"], capture_output=True, text=True, check=True
    ).stdout
    lines = output.splitlines()
    assert len(lines) == len(LOSSES) + 2
    for name, line in zip(LOSSES, lines[2:], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == name
        assert [c == "yes" for c in cells[2 : 2 + len(Law)]] == [
            law in LOSSES[name].laws for law in Law
        ]
