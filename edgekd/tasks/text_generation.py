"""Text generation: the whole next-token distribution at every position of a text.

The program that is deployed gives the logits of all positions of a text of fixed length.
Generation with a cache of keys and values is no part of it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd.tasks.base import Metric
from edgekd.tasks.language_model import LanguageModel, perplexity, token_accuracy


class TextGeneration(LanguageModel):
    name = "text-generation"
    auto_class = "AutoModelForCausalLM"

    def places(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        """Every token but the last, which nothing follows."""
        return [np.arange(max(len(encoding.ids) - 1, 0)) for encoding in encodings]

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        return perplexity(), token_accuracy("next_token_accuracy")

    def truths(self, encodings: Sequence[Any]) -> list[np.ndarray]:
        return [np.array(encoding.ids[1:], np.int64) for encoding in encodings]
