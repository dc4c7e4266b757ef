"""Keep only the pieces of the vocabulary that the task uses.

A 30,522-piece table is most of a small student. Kept are the special tokens, every piece seen in
the training texts, and what guarantees that new text still has a segmentation: every single
character (WordPiece and Unigram), every byte and the merges behind each kept piece (BPE). The
tokenizer re-segments the rest into kept pieces, and is saved with the student.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from edgekd.errors import InputError
from edgekd.preprocess import TextPreprocessor

if TYPE_CHECKING:
    from edgekd.models import LoadedModel


def trim_vocabulary(model: LoadedModel, texts: Sequence[str]) -> LoadedModel:
    """Return ``model`` with its tokenizer and embedding table cut to what ``texts`` need.

    Raises :class:`InputError` for tokenizers other than WordPiece, BPE and Unigram.
    """
    import torch

    from edgekd.models import LoadedModel, revision_of

    preprocessor = model.preprocessor
    assert isinstance(preprocessor, TextPreprocessor)
    seen = {i for e in preprocessor.tokenizer.encode_batch(list(texts)) for i in e.ids}
    document, kept = trim_tokenizer(json.loads(preprocessor.tokenizer_json), seen)
    renumbered = {old: new for new, old in enumerate(kept)}
    trimmed = replace(
        preprocessor,
        tokenizer_json=json.dumps(document, ensure_ascii=False),
        pad_id=renumbered[preprocessor.pad_id],
    )
    network: Any = model.model
    table: nn.Embedding = network.get_input_embeddings()
    weight = table.weight.data[torch.tensor(kept)].clone()
    padding = renumbered.get(table.padding_idx) if table.padding_idx is not None else None
    network.set_input_embeddings(
        nn.Embedding(len(kept), weight.shape[1], padding_idx=padding, _weight=weight)
    )
    config = network.config
    config.vocab_size = len(kept)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id"):
        if getattr(config, name, None) in renumbered:
            setattr(config, name, renumbered[getattr(config, name)])
    return LoadedModel(
        network.eval(), trimmed, model.labels, model.source, revision_of(network, trimmed)
    )


def trim_tokenizer(
    document: dict[str, Any], seen: Iterable[int]
) -> tuple[dict[str, Any], list[int]]:
    """Cut a ``tokenizer.json``; return it and the kept old ids in their new order."""
    kind = document["model"]["type"]
    if kind not in ("WordPiece", "BPE", "Unigram"):
        raise InputError(f"cannot trim a {kind} vocabulary; set student.vocabulary: keep")
    names = _pieces(document)
    special = {token["id"] for token in document.get("added_tokens", [])}
    keep = set(seen) | special | {i for i, name in names.items() if indispensable(name, document)}
    if kind == "BPE":
        keep = _close_over_merges(document, names, keep)
    kept = sorted(keep & names.keys())
    renumbered = {old: new for new, old in enumerate(kept)}
    _renumber(document, names, renumbered)
    return document, kept


def _pieces(document: dict[str, Any]) -> dict[int, str]:
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, dict):
        names = {i: name for name, i in vocabulary.items()}
    else:
        names = {i: name for i, (name, _) in enumerate(vocabulary)}
    return names | {token["id"]: token["content"] for token in document.get("added_tokens", [])}


def indispensable(name: str, document: dict[str, Any]) -> bool:
    """Single characters (and their continuation form), byte fall-backs, the unknown piece."""
    model = document["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    bare = name.removeprefix(prefix).removesuffix(suffix)
    bare = bare.removeprefix("▁") or bare
    is_byte = len(name) == 6 and name.startswith("<0x")
    return len(bare) == 1 or is_byte or name == model.get("unk_token")


def merges(model: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The pairs that a BPE ``model`` of a ``tokenizer.json`` joins, in either of its dialects, and
    what each makes."""
    inside = len(model.get("continuing_subword_prefix") or "")
    pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges", ()))
    return [(left, right, left + right[inside:]) for left, right in pairs]


def _close_over_merges(document: dict[str, Any], names: dict[int, str], keep: set[int]) -> set[int]:
    """A kept BPE piece needs every piece that it is merged from."""
    parts = {made: (left, right) for left, right, made in reversed(merges(document["model"]))}
    ids = {name: i for i, name in names.items()}
    todo = [names[i] for i in keep if i in names]
    while todo:
        for part in parts.get(todo.pop(), ()):
            if ids[part] not in keep:
                keep.add(ids[part])
                todo.append(part)
    return keep


def _renumber(document: dict[str, Any], names: dict[int, str], new: dict[int, int]) -> None:
    model = document["model"]
    if isinstance(model["vocab"], dict):
        own = {i: name for name, i in model["vocab"].items()}
        model["vocab"] = {own[old]: number for old, number in new.items() if old in own}
    else:
        model["vocab"] = [model["vocab"][old] for old in new if old < len(model["vocab"])]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    if model["type"] == "BPE":
        kept = {names[old] for old in new}
        model["merges"] = [[*pair] for *pair, made in merges(model) if {*pair, made} <= kept]
    document["added_tokens"] = [
        {**token, "id": new[token["id"]]}
        for token in document.get("added_tokens", [])
        if token["id"] in new
    ]
    if document.get("padding"):
        document["padding"]["pad_id"] = new[document["padding"]["pad_id"]]
    _renumber_template(document.get("post_processor"), new)


def _renumber_template(processor: dict[str, Any] | None, new: dict[int, int]) -> None:
    """Special tokens around a sentence are written with their ids in three dialects."""
    if not processor:
        return
    if processor["type"] == "Sequence":
        for part in processor["processors"]:
            _renumber_template(part, new)
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [new[i] for i in token["ids"]]
    for side in ("cls", "sep"):
        if isinstance(processor.get(side), list):
            name, number = processor[side]
            processor[side] = [name, new[number]]
