"""What is read from a model as it runs equals what the model itself says."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from edgekd import tasks
from edgekd.distill import transfer
from edgekd.errors import InputError
from edgekd.sections import Distill

TEXT = tasks.get("text-classification")


def bert(layers: int, width: int = 16, seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config).eval()


def feeds() -> dict[str, torch.Tensor]:
    ids = torch.arange(24).reshape(2, 12) % 50
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_taps_read_what_the_model_says_itself() -> None:
    model, inputs = bert(3), feeds()
    wanted = frozenset({"hidden_states", "attentions", "embedding"})
    with transfer.Taps(wanted, layers=(0, 2), heads=2).on(model) as read, torch.inference_mode():
        said = model(**inputs, output_hidden_states=True, output_attentions=True)
        found = read(said, inputs)
    for place, layer in enumerate((0, 2)):
        torch.testing.assert_close(
            found["hidden_states"][:, :, place], said.hidden_states[layer + 1]
        )
    real = inputs["attention_mask"].bool()[:, None, :, None]  # padded queries are nobody's business
    torch.testing.assert_close(found["attentions"][0] * real, said.attentions[-1] * real)
    expected = said.hidden_states[-1][1, :7].mean(0)
    torch.testing.assert_close(found["embedding"][1], expected)


def test_what_is_stored_gives_the_same_attentions_back() -> None:
    model, inputs = bert(2), feeds()
    taps = transfer.Taps(frozenset({"attentions"}), layers=(1,), heads=2)
    assert taps.stored == {"qkv"}
    with taps.on(model) as read, torch.inference_mode():
        found = read(model(**inputs, output_hidden_states=True), inputs)
    again = taps.from_qkv(found["qkv"], inputs["attention_mask"])
    torch.testing.assert_close(again["attentions"][0], found["attentions"][0])


def test_a_plan_owns_projections_where_widths_differ_and_maps_layers() -> None:
    settings = Distill(hidden_weight=1.0, relation_weight=1.0)
    plan = transfer.plan(settings, TEXT, bert(4, width=24), bert(2, width=16), classes=3)
    assert plan.student.layers == (0, 1) and plan.teacher.layers == (1, 3)
    assert plan.teacher.stored == {"hidden_states", "qkv"}
    shapes = sorted(tuple(p.shape) for p in plan.objective.parameters())
    assert shapes == [(24, 16), (24, 16)]


def test_attention_is_that_of_mapped_layers_and_relations_stay_with_the_last() -> None:
    settings = Distill(attention_weight=1.0, relation_weight=1.0, layer_map=[(0, 1), (1, 3)])
    teacher, student, inputs = bert(4), bert(2, seed=1), feeds()
    batches = lambda: (inputs, inputs)  # noqa: E731
    plan = transfer.plan(settings, TEXT, teacher, student, classes=3, probe=batches)
    assert plan.teacher.attended == (-1, 1, 3) and plan.student.attended == (-1, 0, 1)
    found = {}
    for name, model, taps in (("t", teacher, plan.teacher), ("s", student, plan.student)):
        with taps.on(model) as read, torch.no_grad():
            said = model(**inputs, output_hidden_states=True, output_attentions=True)
            found[name] = said, read(said, inputs)
    batch = {"teacher.qkv": found["t"][1]["qkv"], "attention_mask": inputs["attention_mask"]}
    value = plan.objective.value("attention", found["s"][1], plan.complete(batch))
    goals = [found["t"][0].attentions[layer] for layer in (1, 3)]
    real = inputs["attention_mask"].bool()
    expected = torch.zeros(2)
    for mine, goal in zip(found["s"][0].attentions, goals, strict=True):
        each = (goal * (goal.clamp(min=1e-9) / mine.clamp(min=1e-9)).log()).sum(-1).mean(1)
        expected += torch.stack([each[i, real[i]].mean() for i in (0, 1)]) / 2
    torch.testing.assert_close(value, expected)
    # Without a map the last layer alone, whatever hidden states are matched with.
    last = transfer.plan(
        Distill(attention_weight=1.0), TEXT, teacher, student, matched=[(0, 0), (1, 2)]
    )
    assert last.teacher.attended == last.student.attended == (-1,)
    assert last.teacher.layers == (0, 2)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"hidden_weight": 1.0, "layer_map": [(0, 9)]}, {}, "layer 9 of the teacher"),
        ({"attention_weight": 1.0, "layer_map": [(1, 0)]}, {}, "layer 1 of the student"),
        ({"layer_map": [(0, 99)]}, {}, "pairs layers for hidden_weight and attention_weight"),
        ({"relation_weight": 1.0, "layer_map": [(0, 0)]}, {}, "of the last layers by design"),
        ({"method": "dist"}, {"parts": 2}, "compares the samples of a batch"),
        ({"method": "decoupled_kl"}, {"classes": 2}, "at least 3 classes"),
    ],
)
def test_what_cannot_work_is_refused_before_training(values, options, message) -> None:
    settings = Distill(**values)
    with pytest.raises(InputError, match=message):
        transfer.plan(settings, TEXT, bert(2), bert(1), **{"classes": 3, **options})
