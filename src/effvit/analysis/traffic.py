"""Bytes that a call of an operator reads and writes at least: every tensor in and out, each once.

Caches are not modelled: a machine that holds the operands moves less, a kernel that reads an operand twice moves more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Traffic(NamedTuple):
    """What a call moves."""

    bytes_read: int
    """Of the tensors it takes."""
    bytes_written: int
    """Of the tensors it gives or changes."""
    is_view: bool
    """Whether nothing moves: it looks at memory in another way, or sets some aside."""


_OVERWRITING = {
    *("aten::copy_", "aten::fill_", "aten::zero_", "aten::normal_", "aten::uniform_", "aten::bernoulli_"),
    *("aten::random_", "aten::exponential_"),
}
"""In-place operators that do not look at what they overwrite."""
_PICKING = {
    **dict.fromkeys(("aten::index", "aten::_unsafe_index", "aten::index_select", "aten::gather", "aten::take"), "self"),
    "aten::embedding": "weight",
}
"""Operators that read only the elements they pick, and the argument they pick from."""
_SCATTERING = {
    **dict.fromkeys(("aten::index_put_", "aten::_unsafe_index_put_"), "values"),
    **dict.fromkeys(("aten::index_copy_", "aten::index_add_", "aten::masked_scatter_"), "source"),
    **dict.fromkeys(("aten::scatter_", "aten::scatter_add_"), "src"),
}
"""In-place operators that write only as many elements as one argument has."""


def traffic_of(
    function: torch._ops.OpOverload | torch._ops.HigherOrderOperator,
    arguments: Mapping[str, Any],
    outputs: list[Tensor],
) -> Traffic:
    """Bytes of one call.

    Args:
        function: The operator.
        arguments: What it was called with, by the names of its schema.
        outputs: The tensors it gave.
    """
    if not isinstance(function, torch._ops.OpOverload):  # it has no schema, and nothing to say of memory
        return Traffic(_bytes_of(tensors_in(list(arguments.values()))), _bytes_of(outputs), is_view=False)
    schema, name = function._schema, function._schema.name
    skipped = {argument.name for argument in schema.arguments if argument.is_out}
    if name in _OVERWRITING or name in _SCATTERING:
        skipped.add("self")
    read = {argument: list(tensors_in(value)) for argument, value in arguments.items() if argument not in skipped}
    inputs = [tensor for tensors in read.values() for tensor in tensors]
    storages = {_storage(tensor) for tensor in inputs}
    changes = schema.is_mutable and torch.Tag.inplace_view not in function.tags
    if outputs and not changes and all(_storage(output) in storages for output in outputs):
        return Traffic(0, 0, is_view=True)
    if name.rpartition("::")[2].startswith(("empty", "new_empty")):
        return Traffic(0, 0, is_view=True)  # memory is set aside, not touched
    # In evaluation batch norm has no statistics to hand back; some devices hand back copies, which nobody reads.
    bytes_written = _bytes_of(outputs[:1] if "batch_norm" in name else outputs)
    if name in _SCATTERING and isinstance(values := arguments.get(_SCATTERING[name]), Tensor) and values.numel() > 1:
        bytes_written = min(bytes_written, _bytes_of([values]))
    bytes_read = _bytes_of(inputs)
    if name in _PICKING:
        source = arguments[_PICKING[name]]
        others = [tensor for argument, tensors in read.items() if argument != _PICKING[name] for tensor in tensors]
        bytes_read = min(_bytes_of([source]), bytes_written) + _bytes_of(others)
    return Traffic(bytes_read, bytes_written, is_view=False)


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors of a value, lists and tuples opened."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of these tensors in memory, the same memory once."""
    return sum({_place(tensor): _size(tensor) for tensor in tensors}.values())


def _size(tensor: Tensor) -> int:
    """Bytes that a tensor takes: what is repeated by a stride of 0 or overlaps lies in memory once."""
    if tensor.layout != torch.strided:
        return tensor.numel() * tensor.element_size()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    count = 0 if tensor.numel() == 0 else math.prod(size for size, stride in sizes if stride != 0)
    return min(count * tensor.element_size(), tensor.untyped_storage().nbytes())


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Where a tensor lies, equal for two that are the same memory with dimensions swapped."""
    if tensor.layout != torch.strided:
        return (id(tensor),)
    steps = sorted((s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1 and s != 0)
    return _storage(tensor), tensor.storage_offset(), tuple(steps)


def _storage(tensor: Tensor) -> int:
    """The block of memory that a tensor looks at."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else -id(tensor)
