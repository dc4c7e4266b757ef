"""Pooled embeddings: by direction, by which of the batch is meant, by what they are near to.

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
from edgekd.distill.losses.hard import UNLABELLED
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


class EmbeddingMse(nn.Module):
    """Squared difference of the embeddings, mean over the teacher's width: [batch].

    For unit vectors it is the cosine loss times 2 / width; it also holds the length to the
    teacher's where embeddings are not normalised.
    """

    def __init__(self, student_width: int | None = None, teacher_width: int | None = None) -> None:
        super().__init__()
        self.project = projection(student_width, teacher_width)

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        mine, goal = self.project(wide(student)), wide(teacher)
        check_same_shape(mine, goal, "embeddings")
        return (mine - goal).square().mean(-1)


def similarity_kl(
    student: Tensor, teacher: Tensor, temperature: float = 0.05, mask: Tensor | None = None
) -> Tensor:
    """KL of how alike a sample is to the others of its batch, teacher from student: [batch].

    softmax(cosines / ``temperature``) over the other samples, so the widths need not be equal
    (Passalis & Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV
    2018, arXiv:1803.10837). Without T²: see ``reduction.py``.
    """
    check_temperature(temperature)
    mine, goal = (_relation(wide(side), temperature) for side in (student, teacher))
    return F.kl_div(mine, goal, reduction="none", log_target=True).sum(-1)


def supervised_contrastive(
    embedding: Tensor, labels: Tensor, temperature: float = 0.05, mask: Tensor | None = None
) -> Tensor:
    """−log of the chance to pick a sample of the same label out of the batch, mean over those.

    [batch]; a sample without a label, or whose label no other has, adds nothing. Khosla et al.,
    "Supervised Contrastive Learning", NeurIPS 2020 (arXiv:2004.11362), its L_out.
    """
    check_temperature(temperature)
    chances = _relation(wide(embedding), temperature)
    same = (labels[:, None] == labels[None]) & (labels != UNLABELLED)[:, None]
    same = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    kept = torch.where(same, -chances, torch.zeros_like(chances))
    return kept.sum(-1) / same.sum(-1).clamp(min=1)


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


def _relation(vectors: Tensor, temperature: float) -> Tensor:
    """Log-softmax of a sample's cosines with the others: [batch, batch]."""
    unit = _unit(vectors)
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    # A finite floor: −∞ on both sides of a divergence would make 0 · (∞ − ∞).
    return F.log_softmax((unit @ unit.T / temperature).masked_fill(own, -1e30), -1)


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
    Loss(
        name="embedding_mse",
        term="embedding",
        function=EmbeddingMse,
        reads=("student.embedding", "teacher.embedding"),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.SPLIT, Law.FINITE}),
        source="Reimers 2020, arXiv:2004.09813",
    ),
    Loss(
        name="similarity_kl",
        term="similarity",
        function=similarity_kl,
        reads=("student.embedding", "teacher.embedding"),
        laws=frozenset({Law.ZERO, Law.POSITIVE, Law.FINITE}),
        source="Passalis 2018, arXiv:1803.10837",
    ),
    Loss(
        name="supervised_contrastive",
        term="hard",
        function=supervised_contrastive,
        reads=("student.embedding", "labels"),
        laws=frozenset({Law.POSITIVE, Law.FINITE}),
        source="Khosla 2020, arXiv:2004.11362",
    ),
)
