"""What an exported detector does around its network, said in ONNX: a picture made ready, and the best boxes chosen.

Neither can be traced from torch's code: the size that a picture is brought to follows from the picture, and the
number of boxes that are left from what is on it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from effvit.detection.config import DetectorConfig

PIXELS = "pixels"
"""Name of a file's input: uint8, (1, H, W, 3), red, green, blue, as a decoder gives it."""
_NONE = -1.0
"""Score of what is out of the running; all others are above 0."""
_ALL = 2**63 - 1

_PREPARE = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
prepare (uint8[1, {height}, {width}, 3] {pixels}) => (
    float[1, 3, rows, columns] images, float[2] size, float[2] given, float[1] threshold
)
<
    double[1] min_size = {{{min_size}}}, double[1] max_size = {{{max_size}}}, int64[2] front = {{1, 3}},
    int64[1] divisor = {{{divisor}}}, int64[6] no_pads = {{0, 0, 0, 0, 0, 0}}, float[1] least = {{{threshold}}},
    float[1, 3, 1, 1] mean = {{{mean}}}, float[1, 3, 1, 1] std = {{{std}}}, float white = {{255.0}}
>
{{
    shape = Shape<start = 1, end = 3> ({pixels})
    exact = Cast<to = 11> (shape)
    short = ReduceMin<keepdims = 1> (exact)
    long = ReduceMax<keepdims = 1> (exact)
    scale_short = Div (min_size, short)
    scale_long = Div (max_size, long)
    scale = Min (scale_short, scale_long)
    wanted = Mul (exact, scale)
    floor = Floor (wanted)
    fitted = Cast<to = 7> (floor)
    planes = Transpose<perm = [0, 3, 1, 2]> ({pixels})
    values = Cast<to = 1> (planes)
    sizes = Concat<axis = 0> (front, fitted)
    resized = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel"> (values, , , sizes)
    unit = Div (resized, white)
    centred = Sub (unit, mean)
    normalised = Div (centred, std)
    negative = Neg (fitted)
    missing = Mod (negative, divisor)
    pads = Concat<axis = 0> (no_pads, missing)
    images = Pad (normalised, pads)
    size = Cast<to = 1> (fitted)
    given = Cast<to = 1> (shape)
    threshold = Identity (least)
}}
"""
"""Resize as torchvision's detectors do (sizes in double, as Python computes them), normalise, pad bottom and right."""


def preparation(
    config: DetectorConfig,
    *,
    picture_size: tuple[int, int] | None,
    divisor: int,
    threshold: float,
    opset: int,
    ir_version: int,
) -> Any:
    """The ONNX model from a picture to what the network's graph takes.

    Args:
        config: Sizes, mean and standard deviation.
        picture_size: Height and width of all pictures; None for any.
        divisor: Height and width are padded with zeros to a multiple of this.
        threshold: Score above which a box counts.
        opset: Version of ONNX's operators.
        ir_version: Version of the file.

    Returns:
        A model `pixels` -> `images` (1, 3, rows, columns); `size`, height and width without the padding; `given`,
        the picture's own; and `threshold`.
    """
    import onnx.parser

    height, width = picture_size or ("height", "width")
    model = onnx.parser.parse_model(
        _PREPARE.format(
            pixels=PIXELS,
            height=height,
            width=width,
            ir_version=ir_version,
            opset=opset,
            divisor=divisor,
            threshold=float(threshold),
            min_size=float(config.min_size),
            max_size=float(config.max_size),
            mean=", ".join(map(repr, map(float, config.mean))),
            std=", ".join(map(repr, map(float, config.std))),
        )
    )
    return onnx.compose.add_prefix(model, "prepare/", rename_inputs=False, rename_outputs=False)


def network_size(config: DetectorConfig, picture_size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """Height and width that a picture is brought to, the padding included: what `preparation` computes."""
    scale = min(config.min_size / min(picture_size), config.max_size / max(picture_size))
    height, width = (-(-math.floor(side * scale) // divisor) * divisor for side in picture_size)
    return height, width


@torch.library.custom_op("effvit::best_boxes", mutates_args=())
def best_boxes(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: Tensor, num_labels: int, overlap: float, most: int
) -> Tensor:
    """Which boxes are left after non-maximum suppression within each label, the surest first.

    Args:
        boxes: (N, 4).
        scores: (N,).
        labels: (N,), int64, in 0..num_labels - 1.
        threshold: Score above which a box takes part, (1,).
        num_labels: How many labels there are.
        overlap: IoU above which the less sure of two boxes goes.
        most: At most so many are left.

    Returns:
        Their indices, int64.
    """
    index = torch.where(scores > threshold)[0]
    kept = batched_nms(boxes[index], scores[index], labels[index], overlap)
    return index[kept[:most]]


@best_boxes.register_fake
def _(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: Tensor, num_labels: int, overlap: float, most: int
) -> Any:
    return labels.new_empty(torch.library.get_ctx().new_dynamic_size())


def translations() -> dict[Any, Any]:
    """How the exporter writes `best_boxes`: NMS per label on the boxes themselves, without shifting them apart."""
    from onnxscript import opset18

    op: Any = opset18

    def numbers(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def write(boxes: Any, scores: Any, labels: Any, threshold: Any, num_labels: int, overlap: float, most: int) -> Any:
        index = op.Reshape(op.NonZero(op.Greater(scores, threshold)), numbers(-1))
        few = op.Gather(scores, index)
        each = op.Unsqueeze(numbers(*range(num_labels)), numbers(1))
        of_label = op.Equal(each, op.Gather(labels, index))  # (num_labels, 1), (N,) -> (num_labels, N)
        table = op.Where(of_label, few, op.Constant(value_float=_NONE))
        found = op.NonMaxSuppression(
            op.Unsqueeze(op.Gather(boxes, index), numbers(0)),
            op.Unsqueeze(table, numbers(0)),
            numbers(_ALL),
            op.Constant(value_floats=[overlap]),
            threshold,
        )  # (kept, 3): picture, label, box
        kept = op.Reshape(op.Slice(found, numbers(2), numbers(3), numbers(1)), numbers(-1))
        _, order = op.TopK(op.Gather(few, kept), op.Min(op.Shape(kept), numbers(most)))
        return op.Gather(index, op.Gather(kept, order))

    return {torch.ops.effvit.best_boxes.default: write}
