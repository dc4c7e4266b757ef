"""The tokenizer inside the graph, so that the model takes a text.

onnxruntime-extensions' ``BertTokenizer`` splits the text; standard operators cut, pad and shape
its ids as the Python tokenizer does. The token graph stays beside it as ``model.onnx``: it is
what precisions, figures and lint read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import InputError, MissingDependency

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekd.preprocess import TextPreprocessor

DOMAIN = "ai.onnx.contrib"
PACKAGE = "onnxruntime-extensions"
TEXT = "text"  # the input: string [1]
_OUTPUTS = ("input_ids", "token_type_ids", "attention_mask")  # of BertTokenizer, in its order


def library() -> Path:
    """The custom-op library; raise :class:`MissingDependency` where it is not installed.

    Found rather than imported: the package imports onnx, which a session does without.
    """
    spec = find_spec("onnxruntime_extensions")
    folders = spec.submodule_search_locations if spec else None
    names = [f"_extensions_pydll{suffix}" for suffix in EXTENSION_SUFFIXES]
    found = [p for f in folders or () for n in names if (p := Path(f) / n).is_file()]
    if not found:
        raise MissingDependency(
            f"{PACKAGE} is not installed, and a tokenizer inside the graph runs in it; run:"
            " pip install 'edgekd[tokenizer]'"
        )
    return found[0]


def needs() -> dict[str, str]:
    """What a bundle says about the library that its graph needs."""
    library()
    try:
        made_with = version(PACKAGE)
    except PackageNotFoundError:
        made_with = ""
    return {"package": PACKAGE, "version": made_with, "domain": DOMAIN}


def embed(model: ir.Model, preprocessor: TextPreprocessor, length: int | None) -> ir.Model:
    """``model`` behind its tokenizer: one input, :data:`TEXT`.

    ``length`` is the fixed number of tokens, None as many as the text has. Raises
    :class:`InputError` for a tokenizer that is not BERT's.
    """
    import onnx
    import onnx_ir as ir

    first = graph(preprocessor, length, model.ir_version, model.opset_imports[""])
    second = ir.to_proto(model)
    names = [(name, name) for name in preprocessor.inputs]
    return ir.from_proto(onnx.compose.merge_models(ir.to_proto(first), second, names))


def graph(
    preprocessor: TextPreprocessor, length: int | None, ir_version: int, opset: int
) -> ir.Model:
    """A model of the tokenizer alone: string [1] in, int64 [1, tokens] per input name out."""
    import onnx_ir as ir

    text = ir.Value(name=TEXT, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.STRING))
    constants: list[ir.Value] = []

    def constant(*numbers: int) -> ir.Value:
        value = ir.Value(name=f"tokenizer/constant.{len(constants)}")
        value.const_value = ir.tensor(np.array(numbers, np.int64), name=value.name)
        value.shape, value.type = ir.Shape([len(numbers)]), ir.TensorType(ir.DataType.INT64)
        constants.append(value)
        return value

    nodes: list[ir.Node] = []

    def add(kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        name = f"tokenizer/{kind}.{len(nodes)}"
        node = ir.node(kind, inputs, attributes, name=name)
        node.outputs[0].name = name
        nodes.append(node)
        return node.outputs[0]

    start, axis, before_last, end = constant(0), constant(0), constant(-1), constant(2**62)
    kept = constant(preprocessor.max_length - 1)
    split = ir.node(
        "BertTokenizer", [text], _attributes(preprocessor), domain=DOMAIN, num_outputs=3,
        name="tokenizer/BertTokenizer",
    )  # fmt: skip
    for value, name in zip(split.outputs, _OUTPUTS, strict=True):
        value.name = f"tokenizer/{name}"
    nodes.append(split)
    outputs = []
    for name in preprocessor.inputs:
        whole = split.outputs[_OUTPUTS.index(name)]
        # Cut like the Python tokenizer: the closing token stays.
        body = add("Slice", add("Slice", whole, start, before_last, axis), start, kept, axis)
        value = add("Concat", body, add("Slice", whole, before_last, end, axis), axis=0)
        if length:
            value = add("Slice", value, start, constant(length), axis)
            missing = add("Sub", constant(length), add("Shape", value))
            sides = [start, missing] if preprocessor.padding_side == "right" else [missing, start]
            fill = add("Squeeze", constant(preprocessor.pad_id if name == "input_ids" else 0))
            value = add("Pad", value, add("Concat", *sides, axis=0), fill)
        value = add("Unsqueeze", value, start)
        value.name = name
        value.shape = ir.Shape([1, length or "sequence"])
        value.type = ir.TensorType(ir.DataType.INT64)
        outputs.append(value)
    made = ir.Graph(
        [text],
        outputs,
        nodes=nodes,
        initializers=constants,
        opset_imports={"": opset, DOMAIN: 1},
        name="tokenizer",
    )
    return ir.Model(made, ir_version=ir_version)


def added(preprocessor: TextPreprocessor) -> list[dict[str, Any]]:
    """The tokens that the Python tokenizer finds in a text before it splits it."""
    return json.loads(preprocessor.tokenizer_json).get("added_tokens") or []


def _attributes(preprocessor: TextPreprocessor) -> dict[str, Any]:
    """The operator's attributes; :class:`InputError` where it cannot do what the tokenizer does."""
    said: Mapping[str, Any] = json.loads(preprocessor.tokenizer_json)
    model = said["model"]
    if model.get("type") != "WordPiece" or model.get("continuing_subword_prefix") != "##":
        raise InputError(
            f"the tokenizer in the graph is BERT's WordPiece, and this model's is"
            f" {model.get('type', 'unknown')}; export without the option tokenizer=in-graph"
        )
    ids = preprocessor.tokenizer.get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise InputError(
            "the vocabulary skips ids, which the tokenizer in the graph numbers by line; export"
            " without the option tokenizer=in-graph"
        )
    for part, wanted in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        kind = (said.get(part) or {}).get("type")
        if kind != wanted:
            raise InputError(
                f"the tokenizer in the graph has BERT's {part}, {wanted}, and this model's has"
                f" {kind or 'none'}; export without the option tokenizer=in-graph"
            )
    own = [token["content"] for token in added(preprocessor) if not token["special"]]
    if own:
        raise InputError(
            f"this model's tokenizer finds added tokens ({own[0]!r}) before it splits a text, which"
            " the one in the graph does not; export without the option tokenizer=in-graph"
        )
    normal = said["normalizer"]
    lower = bool(normal.get("lowercase"))
    accents = normal.get("strip_accents")
    tokens = preprocessor.tokenizer.encode("").tokens
    if len(tokens) != 2:
        raise InputError(
            f"the tokenizer in the graph adds one token at each end, and this model's adds"
            f" {tokens}; export without the option tokenizer=in-graph"
        )
    return {
        "vocab_file": "\n".join(pieces),
        "do_lower_case": int(lower),
        "strip_accents": int(lower if accents is None else accents),
        "tokenize_chinese_chars": int(bool(normal.get("handle_chinese_chars"))),
        "unk_token": model["unk_token"],
        "cls_token": tokens[0],
        "sep_token": tokens[1],
        "pad_token": preprocessor.pad_token,
        # Wanted by the operator, never made of a text.
        "mask_token": "[MASK]" if "[MASK]" in ids else model["unk_token"],
        "suffix_indicator": "##",
    }
