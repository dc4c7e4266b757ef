from __future__ import annotations

import yaml

from edgekd.report.card import model_card
from edgekd.report.document import Document


def front_matter(card: str) -> dict:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_the_front_matter_is_what_the_hub_reads(document: Document) -> None:
    head = front_matter(model_card(document, license="mit", base_model="a/teacher", dataset="d/s"))
    assert head["license"] == "mit"
    assert head["base_model"] == "a/teacher"
    assert head["datasets"] == ["d/s"]
    assert head["pipeline_tag"] == "text-classification"
    assert head["library_name"] == "transformers"
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "value": 0.9224}


def test_what_is_unknown_is_left_out(document: Document) -> None:
    assert not {"license", "base_model", "datasets", "language"} & set(
        front_matter(model_card(document))
    )


def test_the_card_names_every_bundle_with_its_evidence(document: Document) -> None:
    card = model_card(document)
    for row in document.bundles:
        (line,) = [line for line in card.splitlines() if line.startswith(f"| `{row.path}` |")]
        assert row.evidence in line
    assert "0.6 to 1.9 ms" not in card  # the projection is not the main profile's
    assert "1.41 ms, edge-server, measured" in card


def test_texts_cannot_break_out_of_a_table(document: Document) -> None:
    model = document.models[0].model_copy(update={"id": "a|b\n<b>"})
    card = model_card(document.model_copy(update={"models": [model]}))
    assert "| a\\|b &lt;b> |" in card
