"""Masked-language-model distillation: what a student learns before it knows its task.

Of the tokens of a text 15 % are hidden; of these 80 % become the mask token, 10 % another piece
and 10 % stay (Devlin et al., 2019, section 3.1). Which ones depends on the text's own tokens, so
the same text is always masked alike and a stored signal stays what the teacher said about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import MASK_TOKENS, Arrays, Preprocessor, TextPreprocessor
from edgekd.tasks.base import Metric
from edgekd.tasks.language_model import LanguageModel, perplexity, token_accuracy

HIDDEN = 0.15  # share of a text's tokens
AS_MASK, AS_OTHER = 0.8, 0.1  # of the hidden ones


class FillMask(LanguageModel):
    name = "fill-mask"
    auto_class = "AutoModelForMaskedLM"

    def prepare(self, preprocessor: Preprocessor) -> Preprocessor:
        return MaskedTextPreprocessor.of(preprocessor)

    def places(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        """The hidden tokens."""
        return [hide(encoding)[0] for encoding in encodings]

    def truths(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        pairs = zip(encodings, self.places(encodings), strict=True)
        return [np.array(encoding.ids, np.int64)[where] for encoding, where in pairs]

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        return perplexity(), token_accuracy("masked_token_accuracy")


@dataclass(frozen=True)
class MaskedTextPreprocessor(TextPreprocessor):
    """A text encoder that hides tokens of what it encodes.

    It describes and saves itself as the plain encoder that it is made of: hiding belongs to the
    training, not to the model.
    """

    mask_id: int = 0

    @classmethod
    def of(cls, plain: Preprocessor) -> MaskedTextPreprocessor:
        """Raises :class:`InputError` where the tokenizer has no mask token."""
        if not isinstance(plain, TextPreprocessor):
            raise InputError("fill-mask needs texts; give a text model as the teacher")
        if plain.mask_token is None:
            raise InputError(
                f"the tokenizer has no mask token ({' or '.join(MASK_TOKENS)}); take a model that"
                " was trained to fill masks"
            )
        number = plain.tokenizer.token_to_id(plain.mask_token)
        values = {f.name: getattr(plain, f.name) for f in fields(TextPreprocessor)}
        return cls(**{**values, "padding_side": "right"}, mask_id=number)

    def pad(self, encodings: Sequence[Any], length: int | None = None) -> Arrays:
        arrays = super().pad(encodings, length)
        ids, pieces = arrays["input_ids"], self.tokenizer.get_vocab_size()
        for row, encoding in enumerate(encodings):
            where, generator = hide(encoding)
            draw = generator.random(len(where))
            other = generator.integers(0, pieces, len(where))
            shown = np.where(draw < AS_MASK, self.mask_id, other)
            read = (where < ids.shape[1]) & (draw < AS_MASK + AS_OTHER)
            ids[row, where[read]] = shown[read]
        return arrays


def hide(encoding: Any) -> tuple[np.ndarray, np.random.Generator]:
    """Which tokens of a text are hidden, int64 and ascending, and what draws the rest."""
    ids = np.array(encoding.ids, np.int64)
    seed = hashlib.blake2b(ids.tobytes(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(seed, "little"))
    own = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
    count = min(max(round(HIDDEN * len(own)), 1), len(own))
    return np.sort(generator.choice(own, count, replace=False)), generator
