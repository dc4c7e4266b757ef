"""Pooled embeddings: by direction, and by which of the batch is meant.

Reimers & Gurevych, "Making Monolingual Sentence Embeddings Multilingual using Knowledge
Distillation", EMNLP 2020 (arXiv:2004.09813); Tian, Krishnan & Isola, "Contrastive Representation
Distillation", ICLR 2020 (arXiv:1910.10699) with the InfoNCE form of van den Oord et al.
(arXiv:1807.03748) over the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.distill.losses.base import Law, Loss
from edgekd.distill.losses.hidden import projection
from edgekd.distill.losses.reduction import check_same_shape, check_temperature, wide


class EmbeddingCosine(nn.Module):
    """1 − cosine of the student's and the teacher's embeddings [batch, width]: [batch].

    Where the widths differ, a projection that the loss owns maps the student's to the teacher's.
    """

    def __init__(self, student_width: int | None = None, teacher_width: int | None = None) -> None:
        super().__init__()
        self.project = projection(student_width, teacher_width)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        mine, goal = self.project(wide(student)), wide(teacher)
        check_same_shape(mine, goal, "embeddings")
        # Half the squared distance of the unit vectors: equal, and without cancellation near 0.
        return 0.5 * (_unit(mine) - _unit(goal)).square().sum(-1)


class EmbeddingContrastive(nn.Module):
    """−log of the chance to pick one's own teacher embedding out of the batch's: [batch].

    Cosines divided by ``temperature``. It compares every sample with all others of its batch, and
    is not zero at equality: others stay possible.
    """

    def __init__(
        self,
        student_width: int | None = None,
        teacher_width: int | None = None,
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        self.project = projection(student_width, teacher_width)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        mine, goal = self.project(wide(student)), wide(teacher)
        check_same_shape(mine, goal, "embeddings")
        scores = _unit(mine) @ _unit(goal).T / self.temperature
        own = torch.arange(len(scores), device=scores.device)
        return F.cross_entropy(scores, own, reduction="none")


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1, eps=1e-8)


LOSSES = (
    Loss(
        name="embedding_cosine",
        term="embedding",
        function=EmbeddingCosine,
        reads=("student.embedding", "teacher.embedding"),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.SPLIT, Law.FINITE}),
        source="Reimers 2020, arXiv:2004.09813",
    ),
    Loss(
        name="embedding_contrastive",
        term="contrastive",
        function=EmbeddingContrastive,
        reads=("student.embedding", "teacher.embedding"),
        laws=frozenset({Law.POSITIVE, Law.FINITE}),
        source="Tian 2020, arXiv:1910.10699",
    ),
)
