"""An ML program evaluated in torch, after Apple's description of its operators: what Core ML would compute.

Reads the written package back, graph and weights, so it sees what is in the file and not what was meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effvit.silence import silence


def run_package(path: Path, images: Tensor) -> Tensor:
    """Evaluate the main function of a package, in the number format that each of its operators says."""
    with silence():
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.models import MLModel

        model = MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
        function = load(spec, spec.specificationVersion, model.weights_dir).functions["main"]
    (name,) = function.inputs
    values: dict[str, Any] = {name: images}
    for operator in function.operations:
        if operator.op_type == "const":
            continue
        arguments = {key: _value(given, values) for key, given in operator.inputs.items()}
        results = _OPERATORS[operator.op_type](**arguments)
        for output, result in zip(operator.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            assert tuple(result.shape) == tuple(output.shape), (operator.op_type, result.shape, output.shape)
            values[output.name] = result
    (output,) = function.outputs
    return values[output.name]


def _value(given: Any, values: dict[str, Any]) -> Any:
    """An argument: computed before, or a constant in the file."""
    if isinstance(given, list | tuple):
        return [_value(part, values) for part in given]
    if given is None or given.name in values:
        return None if given is None else values[given.name]
    constant = given.val
    return torch.from_numpy(constant) if isinstance(constant, np.ndarray) and constant.ndim else constant


def _numbers(values: Any) -> list[int]:
    return [int(value) for value in values]


def _conv(
    *,
    x: Tensor,
    weight: Tensor,
    strides: Any,
    pad_type: str,
    pad: Any,
    dilations: Any,
    groups: Any,
    bias: Tensor | None = None,
) -> Tensor:
    top, bottom, left, right = _numbers(pad) if pad_type == "custom" else (0, 0, 0, 0)
    assert pad_type in ("custom", "valid")
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, _numbers(strides), 0, _numbers(dilations), int(groups))


def _slice(*, x: Tensor, begin: Any, end: Any, begin_mask: Any = None, end_mask: Any = None, **_: Any) -> Tensor:
    rank = x.dim()
    starts = begin_mask if begin_mask is not None else [False] * rank
    ends = end_mask if end_mask is not None else [False] * rank
    return x[
        tuple(
            slice(None if free else int(a), None if open_ended else int(b))
            for a, b, free, open_ended in zip(begin, end, starts, ends, strict=True)
        )
    ]


def _pad(*, x: Tensor, pad: Any, mode: str, constant_val: Any) -> Tensor:
    assert mode == "constant"
    sides = _numbers(pad)  # (first before, first after, second before, ...) of the last dimensions
    pairs = [sides[i : i + 2] for i in range(0, len(sides), 2)]
    return F.pad(x, [side for pair in reversed(pairs) for side in pair], value=float(constant_val))


def _matmul(*, x: Tensor, y: Tensor, transpose_x: Any, transpose_y: Any) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def _split(*, x: Tensor, axis: Any, num_splits: Any = None, split_sizes: Any = None) -> tuple[Tensor, ...]:
    sizes = x.shape[int(axis)] // int(num_splits) if split_sizes is None else _numbers(split_sizes)
    return x.split(sizes, dim=int(axis))


_TYPES = {"fp16": torch.float16, "fp32": torch.float32}
_OPERATORS = {
    "add": lambda x, y: x + y,
    "cast": lambda x, dtype: x.to(_TYPES[dtype]),
    "concat": lambda values, axis, interleave: torch.cat(values, dim=int(axis)),
    "conv": _conv,
    "linear": lambda x, weight, bias: F.linear(x, weight, bias),
    "matmul": _matmul,
    "mul": lambda x, y: x * y,
    "pad": _pad,
    "real_div": lambda x, y: x / y,
    "reduce_mean": lambda x, axes, keep_dims: x.mean(_numbers(axes), keepdim=bool(keep_dims)),
    "relu": lambda x: x.relu(),
    "reshape": lambda x, shape: x.reshape(_numbers(shape)),
    "sigmoid": lambda x: x.sigmoid(),
    "slice_by_index": _slice,
    "softmax": lambda x, axis: x.softmax(int(axis)),
    "split": _split,
    "sub": lambda x, y: x - y,
    "transpose": lambda x, perm: x.permute(_numbers(perm)),
}
"""Kind of operator -> what it computes; those of this package's networks only."""
