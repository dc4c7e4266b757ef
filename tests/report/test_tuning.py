"""The trials of a search on the page, in words and in a terminal."""

from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from edgekd.report import plots, story
from edgekd.report.document import Document
from edgekd.report.html import render
from edgekd.report.terminal import show, show_tuning
from edgekd.report.tuning import Tuning

TRIALS: list[dict[str, Any]] = [
    {"values": {"temperature": 2.0}, "state": "complete", "score": 0.9, "curve": [0.7, 0.9]},
    {"values": {"temperature": 4.5}, "state": "complete", "score": 0.93, "curve": [0.8, 0.93]},
    {"values": {"temperature": 1.1}, "state": "pruned", "score": 0.6, "curve": [0.6]},
    {"values": {"temperature": 9.0}, "state": "failed", "failure": "the loss became nan <b>"},
]


@pytest.fixture
def tuning() -> dict[str, Any]:
    return {
        "metric": "accuracy",
        "held_out": 1000,
        "rows": 9003,
        "space": {"temperature": {"low": 1, "high": 9, "log": True, "whole": False}},
        "trials": [{"number": i, "seconds": 70.0, **t} for i, t in enumerate(TRIALS)],
        "chosen": 1,
        "values": {"temperature": 4.5},
        "score": 0.93,
        "score_ci": (0.91, 0.95),
        "gain": 0.03,
        "gain_ci": (0.01, 0.05),
        "importance": {"temperature": 1.0},
    }


def with_tuning(document: Document, tuning: dict[str, Any]) -> Document:
    return document.model_copy(update={"tuning": Tuning.model_validate(tuning)})


def test_the_page_has_every_trial_and_nothing_breaks_out(
    document: Document, tuning: dict[str, Any]
) -> None:
    assert "How the settings were chosen" not in render(document)
    page = render(with_tuning(document, tuning))
    assert page.count('data-label="Trial"') == 4
    assert "the loss became nan &lt;b&gt;" in page
    assert "Temperature 100" in page.replace("temperature", "Temperature")  # its importance


def test_words_for_what_was_chosen(document: Document, tuning: dict[str, Any]) -> None:
    said = story.tuned(with_tuning(document, tuning))
    assert said.startswith(
        "Of 4 trials (1 stopped early, 1 failed), number 1 is best: temperature 4.5."
    )
    assert "93.00 %" in said and "+3.00 points" in said and "+1.00 to +5.00 points" in said
    own = story.tuned(with_tuning(document, {**tuning, "chosen": 0}))
    assert own.endswith("none was better than the recipe’s own setting, which stays.")
    assert story.tuned(document).startswith("Nothing was searched")


def test_the_plot_rings_the_choice_and_draws_the_best_so_far(tuning: dict[str, Any]) -> None:
    row = Tuning.model_validate(tuning)
    drawn = ElementTree.fromstring(plots.tuning(row, "Accuracy", lambda v: f"{v:.2f}"))
    title = drawn.find("title")
    assert title is not None and title.text == "Accuracy of 4 trials"
    classes = [e.get("class") for e in drawn.iter("circle")]
    assert classes.count("ring student") == 1 and classes.count("point student") == 1
    assert classes.count("point teacher") == 1 and classes.count("point other hollow") == 1
    line = next(drawn.iter("polyline")).get("points") or ""
    heights = [float(p.split(",")[1]) for p in line.split()]
    assert heights == sorted(heights, reverse=True)  # upwards is better

    loss = {**tuning, "metric": "perplexity", "lower_is_better": True}
    fell = ElementTree.fromstring(
        plots.tuning(Tuning.model_validate(loss), "Perplexity", lambda v: f"{v:.2f}")
    )
    points = (next(fell.iter("polyline")).get("points") or "").split()
    assert len({p.split(",")[1] for p in points}) == 1  # trial 1 is worse: the best stays


def test_the_terminal_names_the_choice(document: Document, tuning: dict[str, Any]) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=200, highlight=False)
    show_tuning(console, Tuning.model_validate(tuning).model_dump())
    said = stream.getvalue()
    assert "1 *" in said and "pruned" in said and "the loss became nan" in said
    assert "+0.0300 over the recipe's own setting (95 %: +0.0100 to +0.0500)" in said
    show(console, with_tuning(document, tuning))
    assert "tuned over 4 trials: temperature 4.5" in stream.getvalue()
