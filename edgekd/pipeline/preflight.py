"""Checks before any training: does the teacher know this task, under these labels?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.audio import AudioPreprocessor
from edgekd.errors import InputError
from edgekd.preprocess import Preprocessor, Row, TextPreprocessor
from edgekd.tasks import Task

if TYPE_CHECKING:
    from edgekd.models import LoadedModel

NEAR_CHANCE = 0.1  # of the way from guessing to perfect
SWAPPED = 0.5  # share of a class's rows that the teacher gives to one other class
DEALS, LEAST_DEALT = 20, 20  # of answers to other rows, and rows that are enough to tell
CUT_OFF = 0.01  # share of rows longer than the model reads, from which on it is worth a warning

Decisions = tuple[np.ndarray, np.ndarray]  # chances [decisions, classes], true classes


def teacher_knows(
    task: Task,
    outputs: Mapping[str, Any],
    references: Sequence[Any],
    labels: Sequence[str],
    source: str | None,
    vocabulary: int = 0,
) -> None:
    """Raise :class:`InputError` for a teacher near chance or with labels in another order.

    ``source`` is None for a teacher that was trained here, and ``vocabulary`` the number of tokens
    where those are the classes. Embeddings are not asked: nothing says what they were made for.
    """
    known = task.decisions(outputs, references)
    decisions = known if known and len(known[1]) else None
    if decisions:
        _same_order(task, decisions, labels, source)
    if task.over_vocabulary:
        found = _against_uniform(task, outputs, labels, vocabulary)
    elif known and task.exclusive:
        found = _against_commonest(task, decisions) if decisions else None
    elif task.has_head:
        found = _against_dealt(task, outputs, references, labels)
    else:
        found = None
    if found:
        mend = (
            f"{source} is not fine-tuned for this task or these labels; give it as teacher.base to"
            " have it fitted"
            if source
            else "it did not learn; train it for more epochs, or with another learning_rate"
        )
        raise InputError(f"the teacher {found}: {mend}")


def _same_order(
    task: Task, decisions: Decisions, labels: Sequence[str], source: str | None
) -> None:
    decoded, truth = decisions[0].argmax(-1), decisions[1]
    count = len(labels)
    if task.exclusive:
        table = np.zeros((count, count))
        np.add.at(table, (truth, decoded), 1)
        examples = table.sum(1)
        whole = examples[:, None]
    else:  # a yes or no for each class: one's name is what is said as often as it is true, and there
        said, true = (x.reshape(-1, count).astype(float) for x in (decoded, truth))
        table, examples = true.T @ said, true.sum(0)
        whole = (examples[:, None] + said.sum(0)) / 2
    swapped = _swapped(table / np.maximum(whole, 1), examples)
    if swapped:
        first, second = swapped
        raise InputError(
            f"the labels are in another order than the teacher's: what the data calls"
            f" '{labels[first]}', {source or 'it'} mostly calls '{labels[second]}' and the other way round"
            " or onwards; name the labels in the data, or list them under data.labels"
        )


def _swapped(share: np.ndarray, examples: np.ndarray) -> tuple[int, int] | None:
    """Two classes of a cycle in which the teacher calls each mostly by the next one's name.

    ``share`` [classes, classes] says how much of what is the first is called the second.
    """
    called = share.argmax(1)
    mostly = (share.max(1) > SWAPPED) & (called != np.arange(len(called))) & (examples >= 5)
    for start in np.flatnonzero(mostly):
        seen, here = {int(start)}, int(called[start])
        while mostly[here] and here not in seen:
            seen.add(here)
            here = int(called[here])
        if here == start:
            return int(start), int(called[start])
    return None


def _against_commonest(task: Task, decisions: Decisions) -> str | None:
    """What is wrong, where the commonest class would do nearly as well."""
    decoded, truth = decisions[0].argmax(-1), decisions[1]
    right = float(np.mean(decoded == truth))
    chance = max(Counter(truth.tolist()).values()) / len(truth)
    if right - chance >= NEAR_CHANCE * (1 - chance):
        return None
    return (
        f"is right on {right:.1%} of the test {'words' if task.per_token else 'rows'}, and always"
        f" saying the commonest class on {chance:.1%}"
    )


def _against_uniform(
    task: Task, outputs: Mapping[str, Any], labels: Sequence[str], vocabulary: int
) -> str | None:
    """What is wrong, where every token being as likely as the next would do nearly as well."""
    metric = task.metrics(labels)[0]
    perplexity = metric(task.decode(outputs, labels), [None] * len(outputs["mask"]))
    if not vocabulary or perplexity < (1 - NEAR_CHANCE) * vocabulary:
        return None
    return (
        f"has a {metric.name} of {perplexity:,.0f} on the test rows, and knowing nothing one of"
        f" {vocabulary:,}"
    )


def by_frequency(
    task: Task, outputs: Mapping[str, Any], rows: Sequence[Row], teacher: LoadedModel
) -> float | None:
    """Perplexity, on the tokens that ``outputs`` answered, of knowing how frequent each token is.

    Frequencies are those of ``rows``; unseen tokens share what T kinds among N tokens leave them,
    T / (N + T) (Witten and Bell, 1991). None where the answers are not tokens.
    """
    if not task.over_vocabulary:
        return None
    counts = np.zeros(int(teacher.model.config.vocab_size))  # type: ignore[union-attr, arg-type]
    special: set[int] = set()
    for encoding in teacher.preprocessor.each(rows):  # type: ignore[attr-defined]
        ids = np.array(encoding.ids)
        np.add.at(counts, ids, 1)
        special.update(ids[np.array(encoding.special_tokens_mask) > 0].tolist())
    truth = np.asarray(outputs["truth"])[np.asarray(outputs["mask"]) > 0]
    counts[list(special - set(truth.tolist()))] = 0  # what begins a row, say, is never asked for
    seen = counts > 0
    share = counts / (counts.sum() + seen.sum())
    share[~seen] = (1 - share.sum()) / max(1, (~seen).sum())
    return float(np.exp(-np.log(share / share.sum())[truth].mean()))


def dull(labelled: Mapping[str, Any], whose: str) -> str | None:
    """The warning where a teacher of language knows no more than how frequent each token is."""
    frequency = labelled["frequency"]
    if frequency is None:
        return None
    perplexity = labelled["evaluation"]["metrics"]["perplexity"]
    if perplexity < frequency:
        return None
    return (
        f"the {whose}'s perplexity on the test rows is {perplexity:,.0f}, and that of knowing only"
        f" how frequent each token is {frequency:,.0f}: it has nothing to teach yet; fit it longer or"
        " at a higher learning rate, or take one that was trained as a language model"
    )


def _against_dealt(
    task: Task, outputs: Mapping[str, Any], references: Sequence[Any], labels: Sequence[str]
) -> str | None:
    """What is wrong, where its own answers dealt out to other rows would do as well.

    As well is within two standard deviations of what the deals score.
    """
    decoded = task.decode(outputs, labels)
    if len(decoded) < LEAST_DEALT:
        return None
    metric, random = task.metrics(labels)[0], np.random.default_rng(0)
    score = metric(decoded, references)
    dealt = [
        metric([decoded[i] for i in random.permutation(len(decoded))], references)
        for _ in range(DEALS)
    ]
    sign = -1 if metric.lower_is_better else 1
    if sign * (score - np.mean(dealt)) > 2 * np.std(dealt):
        return None
    return (
        f"has a {metric.name} of {score:.3f} on the test rows, and its own answers dealt out to"
        f" other rows have {np.mean(dealt):.3f} ± {2 * np.std(dealt):.3f}"
    )


def share_cut_off(preprocessor: Preprocessor, rows: Sequence[Row]) -> float:
    """Share of rows with tokens, or with sound, beyond what the model reads."""
    if isinstance(preprocessor, AudioPreprocessor) and rows:
        longest = preprocessor.samples / preprocessor.sampling_rate
        seconds = np.array([len(row["audio"]) / row["sampling_rate"] for row in rows])
        return float((seconds > longest).mean())
    if not isinstance(preprocessor, TextPreprocessor) or not rows:
        return 0.0
    return float(np.mean([bool(tokens.overflowing) for tokens in preprocessor.each(rows)]))


def cut_off(share: float, whose: str) -> str | None:
    """The warning for a ``share`` of rows of which the model does not read the end."""
    if share <= CUT_OFF:
        return None
    return f"{share:.1%} of the training rows are longer than the {whose} reads: cut off"


def same_vocabulary(teacher: Preprocessor, student: Preprocessor) -> bool:
    """Whether both number the same pieces in the same way."""
    assert isinstance(teacher, TextPreprocessor) and isinstance(student, TextPreprocessor)
    return teacher.tokenizer.get_vocab() == student.tokenizer.get_vocab()


def same_tokens(teacher: Preprocessor, student: Preprocessor, rows: Sequence[Row]) -> bool:
    """Whether both cut every row into the same pieces (the ids may differ)."""
    if not isinstance(teacher, TextPreprocessor) or not isinstance(student, TextPreprocessor):
        return True
    if (teacher.tokenizer_json, teacher.max_length) == (student.tokenizer_json, student.max_length):
        return True
    pairs = zip(teacher.each(rows), student.each(rows), strict=True)
    return all(ours.tokens == theirs.tokens for ours, theirs in pairs)
