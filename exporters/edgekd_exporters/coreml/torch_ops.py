"""Torch ops that coremltools 9 cannot translate, registered through its public registry.

Each entry says which models need it. An op that a newer coremltools knows by itself is left
to it.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Add the missing ops once; a second call does nothing."""
    from coremltools.converters.mil import register_torch_op
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    for function, aliases in OPS:
        names = [function.__name__, *aliases]
        if any(_TORCH_OPS_REGISTRY.get_func(name) is None for name in names):
            register_torch_op(function, torch_alias=aliases, override=True)


def alias(context: Any, node: Any) -> None:
    """GPT-2 and Llama: ``aten.alias`` returns its input."""
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    context.add(_get_inputs(context, node)[0], node.name)


def new_ones(context: Any, node: Any) -> None:
    """Models that build their own mask: ``x.new_ones(shape)``."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    shape = _get_inputs(context, node)[1]
    if isinstance(shape, list):
        shape = mb.concat(values=shape, axis=0)
    context.add(mb.fill(shape=shape, value=1.0, name=node.name))


def __and__(context: Any, node: Any) -> None:
    """Models that combine boolean masks with ``&``."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    x, y = (mb.cast(x=value, dtype="bool") for value in _get_inputs(context, node, expected=2))
    context.add(mb.logical_and(x=x, y=y, name=node.name))


OPS = ((alias, []), (new_ones, []), (__and__, []))
