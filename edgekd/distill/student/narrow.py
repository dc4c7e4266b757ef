"""A student as deep as a model and narrower, started from that model's weights.

Hidden channels, attention heads and feed-forward neurons are dropped. What a dropped one said is
rewritten as a linear combination of those that stay, fitted on training rows, and folded into the
weights that read it: an interpolative decomposition (arXiv:2108.00065). It does what a PCA of the
hidden states does in SliceGPT (arXiv:2401.15024) and leaves the axes where they are, which the
elementwise scales of a layer norm need. At full size nothing is dropped, so nothing changes.

A layer norm does not commute with dropping channels: its mean and variance are then those of the
channels that stay. Its scale and shift are fitted anew, which repairs that on average, not row by
row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgekd.distill.student.anatomy import (
    ATTENTION,
    EMBEDDING,
    HEAD,
    HIDDEN,
    INTERMEDIATE,
    Anatomy,
    Sizes,
    dissect,
    resized,
)
from edgekd.preprocess import Row

if TYPE_CHECKING:
    from edgekd.models import LoadedModel

ROWS = 256  # that the fit looks at
BATCH = 32
RIDGE = 1e-3  # of the mean variance: few rows do not determine every coefficient

Batch = tuple[dict[str, Tensor], Tensor | None]  # inputs, and which positions are real
Moments = dict[str, Tensor]  # module -> sum over positions of [x, 1] [x, 1]^T: [n + 1, n + 1]


def narrow(model: LoadedModel, wanted: Sizes, rows: Sequence[Row]) -> LoadedModel:
    """Return ``model`` with the sizes ``wanted``, its weights reduced to them.

    ``rows`` are training rows, of which an even selection is read. Raises
    :class:`edgekd.errors.InputError` for a family whose layout is not known.
    """
    from edgekd.models import LoadedModel, revision_of

    network: Any = model.model
    anatomy = dissect(network)
    if wanted == anatomy.sizes:
        return model
    batches = _batches(model, rows)
    moments = _second_moments(network, anatomy, batches)
    kept = _choose(network, anatomy, wanted, moments)
    smaller = type(network)(
        resized(network.config, wanted.hidden, wanted.heads, wanted.intermediate, wanted.embedding)
    ).eval()
    state = _reduced(network, kept, moments) | _refitted_norms(network, kept, batches)
    project = [name for name in smaller.state_dict() if name.endswith("embeddings_project.weight")]
    if project and project[0] not in state:
        state |= _factorised(project[0].removesuffix(".weight"), kept, moments)
    smaller.load_state_dict(state)
    revision = revision_of(smaller, model.preprocessor)
    return LoadedModel(smaller, model.preprocessor, model.labels, model.source, revision)


@dataclass(frozen=True)
class _Kept:
    """Which indices of each axis stay: those inside a layer are each layer's own."""

    anatomy: Anatomy
    indices: Mapping[tuple[str, str], Tensor]  # (layer number or "", axis)

    def of(self, name: str, axis: str | int) -> Tensor:
        """The kept indices of an axis of the weight or module ``name``."""
        if isinstance(axis, int):
            return torch.arange(axis)
        inner = axis in (ATTENTION, INTERMEDIATE)
        return self.indices[self.anatomy.layer_of(name) if inner else "", axis]


def _batches(model: LoadedModel, rows: Sequence[Row]) -> list[Batch]:
    step = max(len(rows) // ROWS, 1)
    chosen = list(rows[::step])[:ROWS]
    found = []
    for start in range(0, len(chosen), BATCH):
        arrays = model.preprocessor.encode(chosen[start : start + BATCH])
        feeds = {name: torch.from_numpy(array) for name, array in arrays.items()}
        mask = feeds.get("attention_mask")
        found.append((feeds, None if mask is None else mask.bool()))
    return found


@contextmanager
def _watched(
    modules: Mapping[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]
) -> Iterator[Callable[[Tensor | None], None]]:
    """Call ``see(name, input, output)`` at each forward pass, [positions, channels], no padding."""
    real: Tensor | None = None

    def hook(name: str) -> Callable[..., None]:
        def flat(x: Tensor) -> Tensor:
            if real is not None and x.shape[:2] == real.shape:
                return x[real]
            return x.reshape(-1, x.shape[-1])

        return lambda module, inputs, output: see(name, flat(inputs[0]), flat(output))

    def set_real(mask: Tensor | None) -> None:
        nonlocal real
        real = mask

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield set_real
    finally:
        for handle in handles:
            handle.remove()


def _run(
    network: nn.Module,
    batches: Sequence[Batch],
    modules: Mapping[str, nn.Module],
    see: Callable[[str, Tensor, Tensor], None],
) -> None:
    with _watched(modules, see) as set_real, torch.inference_mode():
        for feeds, real in batches:
            set_real(real)
            network(**feeds)


def _second_moments(network: nn.Module, anatomy: Anatomy, batches: Sequence[Batch]) -> Moments:
    """What each dense layer that reads a cuttable axis was fed; not one whose weight is tied.

    A language model's last layer is its embedding, and is cut as that.
    """
    found: Moments = {}

    def see(name: str, x: Tensor, _: Tensor) -> None:
        extended = torch.cat([x, torch.ones(len(x), 1)], 1)
        found[name] = found.get(name, torch.zeros(())) + extended.T @ extended

    readers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and isinstance(_axes(anatomy, name)[-1], str)
    }
    _run(network, batches, readers, see)
    return found


def _axes(anatomy: Anatomy, module: str) -> Sequence[str | int]:
    """Of a module's weight; of one that goes by another module's name, nothing that can be cut."""
    return anatomy.axes.get(f"{module}.weight", (0,))


def _spread(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance [n, n] and mean [n]."""
    sums = moment.double()
    mean = sums[-1, :-1] / sums[-1, -1]
    return sums[:-1, :-1] / sums[-1, -1] - torch.outer(mean, mean), mean


def _choose(network: nn.Module, anatomy: Anatomy, wanted: Sizes, moments: Moments) -> _Kept:
    """Which channels, heads and neurons stay.

    Channels: those from which the others are predicted best, by pivoted Cholesky of their
    covariance over everything that reads them. Neurons: the same, each weighed by the norm of
    the weights that read it. Heads: those that move the output most.
    """
    weights = {name.removesuffix(".weight"): value for name, value in network.named_parameters()}
    sizes = anatomy.sizes
    readers: dict[str, list[str]] = {}
    for name in moments:
        readers.setdefault(str(anatomy.axes[f"{name}.weight"][1]), []).append(name)

    def channels(names: Sequence[str], length: int, whole: int) -> Tensor:
        if length == whole:
            return torch.arange(whole)
        spreads = [_spread(moments[name])[0] for name in names]
        return _pivots(sum((s / s.trace() for s in spreads), torch.zeros(())), length)

    kept: dict[tuple[str, str], Tensor] = {}
    kept["", HIDDEN] = channels(readers[HIDDEN], wanted.hidden, sizes.hidden)
    if HEAD in readers:
        kept["", HEAD] = channels(readers[HEAD], wanted.hidden, sizes.hidden)
    if sizes.embedding is not None and wanted.embedding is not None:
        tied = sizes.embedding == sizes.hidden  # nothing projects: the first layer reads them
        first = next(n for n in readers[HIDDEN] if anatomy.layer_of(n) == "0") if tied else ""
        kept["", EMBEDDING] = (
            kept["", HIDDEN]
            if tied and wanted.embedding == wanted.hidden
            else channels(
                [first] if tied else readers[EMBEDDING], wanted.embedding, sizes.embedding
            )
        )
    for name in readers[ATTENTION]:
        kept[anatomy.layer_of(name), ATTENTION] = _heads(
            weights[name].detach(), moments[name], sizes.head_size, wanted.heads
        )
    for name in readers[INTERMEDIATE]:
        whole = torch.arange(sizes.intermediate)
        if wanted.intermediate < sizes.intermediate:
            heard = weights[name].detach().double().norm(dim=0)
            spread = _spread(moments[name])[0] * torch.outer(heard, heard)
            whole = _pivots(spread, wanted.intermediate)
        kept[anatomy.layer_of(name), INTERMEDIATE] = whole
    return _Kept(anatomy, kept)


def _pivots(covariance: Tensor, count: int) -> Tensor:
    """Greedily, what has most variance left when those before have explained theirs."""
    left = covariance.diag().clone()
    least = 1e-9 * float(left.max())
    factor = torch.zeros(len(left), count, dtype=covariance.dtype)  # of a partial Cholesky
    chosen: list[int] = []
    for step in range(count):
        pivot = int(left.index_fill(0, torch.tensor(chosen, dtype=torch.long), -1.0).argmax())
        chosen.append(pivot)
        if left[pivot] > least:
            column = covariance[:, pivot] - factor[:, :step] @ factor[pivot, :step]
            factor[:, step] = column / left[pivot].sqrt()
            left -= factor[:, step] ** 2
    return torch.tensor(sorted(chosen))


def _heads(weight: Tensor, moment: Tensor, each: int, count: int) -> Tensor:
    """The channels of the ``count`` heads that alone move the output ``weight @ heads`` most."""
    covariance, _ = _spread(moment)
    moved = weight.double().T @ weight.double() * covariance
    heads = moved.shape[0] // each
    energy = moved.reshape(heads, each, heads, each).sum((1, 3)).diag()
    best = energy.argsort(descending=True, stable=True)[:count].sort().values
    return (best[:, None] * each + torch.arange(each)).flatten()


def _reduced(network: nn.Module, kept: _Kept, moments: Moments) -> dict[str, Tensor]:
    """Every weight with its axes cut, and what was cut off folded into what reads it."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for name in moments:
        rest, bias = f"{name}.weight", state.get(f"{name}.bias")
        stay = kept.of(name, kept.anatomy.axes[rest][1])
        state[rest], bias = fold(state[rest], bias, moments[name], stay)
        if bias is not None:
            state[f"{name}.bias"] = bias
    for name, axes in kept.anatomy.axes.items():
        module, _, kind = name.rpartition(".")
        for index, axis in enumerate(axes):
            folded = module in moments and kind == "weight" and index == 1
            if not folded and isinstance(axis, str):
                state[name] = state[name].index_select(index, kept.of(name, axis))
    first = {value.data_ptr(): name for name, value in network.named_parameters()}
    tied = {n: first.get(v.data_ptr()) for n, v in network.state_dict().items()}
    return state | {name: state[other] for name, other in tied.items() if other is not None}


def fold(
    weight: Tensor, bias: Tensor | None, moment: Tensor, stay: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Let ``weight`` [outputs, n] read only the inputs ``stay``, the others predicted from them.

    ``moment`` is the inputs' second moment [n + 1, n + 1] with a one appended. Without a bias
    nothing can hold the mean, so the prediction is then a linear one through the origin.
    """
    inputs = weight.shape[1]
    if len(stay) == inputs:
        return weight, bias
    gone = torch.ones(inputs, dtype=torch.bool).index_fill(0, stay, False).nonzero().flatten()
    covariance, mean = _spread(moment)
    if bias is None:
        covariance, mean = covariance + torch.outer(mean, mean), torch.zeros_like(mean)
    among = covariance[stay][:, stay]
    ridge = RIDGE * among.diag().mean().clamp(min=1e-12) * torch.eye(len(stay)).double()
    predict = torch.linalg.solve(among + ridge, covariance[stay][:, gone]).T  # [gone, stay]
    whole = weight.double()
    folded = whole[:, stay] + whole[:, gone] @ predict
    if bias is not None:
        shift = whole[:, gone] @ (mean[gone] - predict @ mean[stay])
        bias = (bias.double() + shift).to(bias.dtype)
    return folded.to(weight.dtype), bias


def _refitted_norms(network: nn.Module, kept: _Kept, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Scale and shift of each cut layer norm, by least squares per channel against its output."""
    norms = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.LayerNorm):
            stay = kept.of(name, kept.anatomy.axes[f"{name}.weight"][0])
            if len(stay) < module.weight.numel():
                norms[name] = module
    sums: dict[str, Tensor] = {}

    def see(name: str, x: Tensor, y: Tensor) -> None:
        stay = kept.of(name, kept.anatomy.axes[f"{name}.weight"][0])
        normed = nn.functional.layer_norm(x[:, stay], (len(stay),), eps=norms[name].eps).double()
        target = y[:, stay].double()
        rows = [torch.ones_like(normed), normed, target, normed * normed, normed * target]
        sums[name] = sums.get(name, torch.zeros(())) + torch.stack([r.sum(0) for r in rows])

    _run(network, batches, norms, see)
    state = {}
    for name, (count, first, second, square, product) in sums.items():
        variance = square / count - (first / count) ** 2
        covariance = product / count - first * second / count**2
        stay = kept.of(name, kept.anatomy.axes[f"{name}.weight"][0])
        scale = norms[name].weight.detach()[stay].double()
        scale = torch.where(variance > 1e-6, covariance / variance.clamp(min=1e-6), scale)
        state[f"{name}.weight"] = scale.float()
        state[f"{name}.bias"] = (second / count - scale * first / count).float()
    return state


def _factorised(name: str, kept: _Kept, moments: Moments) -> dict[str, Tensor]:
    """The projection from a narrower embedding to the stream that it used to be."""
    first = next(
        module
        for module in moments
        if kept.anatomy.layer_of(module) == "0"
        and kept.anatomy.axes[f"{module}.weight"][1] == HIDDEN
    )
    stream = kept.indices["", HIDDEN]
    identity = torch.eye(kept.anatomy.sizes.hidden)[stream]
    weight, bias = fold(
        identity, torch.zeros(len(stream)), moments[first], kept.indices["", EMBEDDING]
    )
    assert bias is not None
    return {f"{name}.weight": weight, f"{name}.bias": bias}
