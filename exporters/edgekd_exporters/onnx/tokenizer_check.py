"""The tokenizer in the graph against the Python tokenizer, on rows and on texts chosen to part them.

onnxruntime-extensions' ``BertTokenizer`` is written after BERT's in Python and leaves some of
Unicode out. Where ordinary writing would be read otherwise nothing is exported; what is rare is
named, for the bundle to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.errors import VerificationError
from edgekd.preprocess import Row, TextPreprocessor
from edgekd_exporters.onnx.tokenizer import TEXT, added, graph, library

ORDINARY = (
    *("", " \t\r\n ", "My  Card\twas LOST", "wait -- what?!... (top-up) #1, 2.50 $^`~<>|+="),
    *("Überweisung: naïve café, cafe\u0301", "東京 top-up東京up", "“up” — ¿up? €5"),
    *("a\u00adb\u200bc\u00a0d\u3000e", "a\x07b", "up 🙂 card", "x" * 100, "x" * 101),
    "how long " * 200,
)
# What the operator is known to read otherwise; {a} is a word of the vocabulary.
RARE: Mapping[str, Sequence[str]] = {
    "NUL and DEL characters": ["{a}\x00{a}", "{a}\x7f{a}"],
    "byte order marks and U+FFFD": ["\ufeff{a}", "{a}\ufffd{a}"],
    "line and paragraph separators (U+2028, U+2029)": ["{a}\u2028{a}\u2029{a}"],
    "private and unassigned characters": ["\ue000{a}", "\u0378{a}"],
    "İ and ẞ": ["İ", "İSTANBUL", "STRAẞE ẞ"],
    "Hangul": ["한국어 카드", "한 국 어"],
    "Cyrillic and Greek accents": ["й ё", "мой йод", "ά ώ Ώ", "ΣΑΣ"],
    "Vietnamese": ["ế ạ ư", "thẻ của tôi bị mất"],
    "combining marks of Arabic, Hebrew, Devanagari and Thai": ["كَ َ", "שָׁ ׁ", "हिन्दी ि", "ไทยที่ ่"],
}
SPECIAL = "special tokens inside a text"


def verify(
    preprocessor: TextPreprocessor, length: int | None, rows: Sequence[Row]
) -> tuple[str, ...]:
    """Compare on ``rows`` and :data:`ORDINARY`; return what of :data:`RARE` differs, by name.

    Raises :class:`InputError` for a tokenizer that cannot be put into a graph and
    :class:`VerificationError` that names the first row or ordinary text read otherwise.
    """
    differs = _Comparison(preprocessor, length)
    for text in (*(row["text"] for row in rows), *ORDINARY):
        if name := differs(text):
            raise VerificationError(
                f"the tokenizer in the graph and the Python tokenizer differ in {name} of"
                f" {text!r}; export without the option tokenizer=in-graph"
            )
    word = _word(preprocessor)
    rare = {name: [text.format(a=word) for text in texts] for name, texts in RARE.items()}
    rare[SPECIAL] = [f"{word} {token['content']} {word}" for token in added(preprocessor)]
    return tuple(name for name, texts in rare.items() if any(map(differs, texts)))


class _Comparison:
    """Called with a text: the first input that both read otherwise, None where they agree."""

    def __init__(self, preprocessor: TextPreprocessor, length: int | None) -> None:
        import onnx_ir as ir
        import onnxruntime

        from edgekd_exporters.onnx.lower import DEFAULT_OPSET

        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(str(library()))
        model = ir.to_proto(graph(preprocessor, length, 10, DEFAULT_OPSET)).SerializeToString()
        self._session: Any = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._preprocessor, self._length = preprocessor, length

    def __call__(self, text: str) -> str | None:
        expected = self._preprocessor.encode([{"text": text}], self._length)
        found = self._session.run(list(expected), {TEXT: np.array([text])})
        pairs = zip(expected, found, strict=True)
        return next((n for n, value in pairs if not np.array_equal(value, expected[n])), None)


def _word(preprocessor: TextPreprocessor) -> str:
    """A word that is one piece, so that a text cut short or run together has other ids."""
    pieces = preprocessor.tokenizer.get_vocab()
    words = [piece for piece in pieces if piece.isascii() and piece.isalpha() and piece.islower()]
    return min(words, key=lambda word: (abs(len(word) - 4), word), default="card")
