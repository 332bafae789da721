"""Where the cells of a pyramid lie in the picture: anchors and RoIAlign by the levels' strides.

Torchvision infers both from the sizes of pictures and maps, which is wrong by up to a half where a side is no
multiple of the coarsest stride (96 pixels and a map of two cells of stride 64 give 48), and remembers the first
picture's answer and the last one's number format. Here the strides are told, and nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors."""


class StrideAnchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors of each level, centred at multiples of its stride, not rounded to whole pixels.

    They are float32 at least: half precision cannot tell the pixels of a large picture apart.

    Args:
        strides: Stride of each level, in pixels.
        scales: Side of the square anchors over the stride.
    """

    def __init__(self, strides: Sequence[int], scales: Sequence[float]) -> None:
        self.strides = tuple(strides)
        sizes = tuple(tuple(stride * scale for scale in scales) for stride in strides)
        super().__init__(sizes, (ASPECT_RATIOS,) * len(sizes))

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """Anchors of one cell around (0, 0), (ratios * sizes, 4), ratios first."""
        sides = torch.tensor(scales, dtype=dtype, device=device)
        roots = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths = (sides / roots[:, None]).flatten()  # (ratios, sizes) -> (ratios * sizes,)
        heights = (sides * roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Anchors of each picture, (N, 4), the levels one after the other, each row by row, then by cell."""
        dtype = torch.promote_types(feature_maps[0].dtype, torch.float32)
        device = feature_maps[0].device
        found = []
        for features, stride, sizes, ratios in zip(
            feature_maps, self.strides, self.sizes, self.aspect_ratios, strict=True
        ):
            cell = self.generate_anchors(sizes, ratios, dtype, device)
            rows = torch.arange(features.shape[-2], device=device, dtype=dtype) * stride
            columns = torch.arange(features.shape[-1], device=device, dtype=dtype) * stride
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centres = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)  # (H, W, 4) -> (H * W, 1, 4)
            found.append((centres + cell).reshape(-1, 4))  # (H * W, anchors, 4) -> (H * W * anchors, 4)
        anchors = torch.cat(found)
        return [anchors for _ in image_list.image_sizes]


class StrideRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]
    """Features of boxes, each box from the level that its size belongs to (Lin et al., arXiv:1612.03144, Eq. 1).

    Boxes below 112 pixels are taken from stride 4, and each doubling from the next. The samples of a cell are as many
    as it has pixels of the level (`sampling_ratio` 0), as in mmdetection.

    Args:
        strides: Strides of the levels to take from, in pixels; their names are "0", "1", ...
        output_size: Cells a side.
    """

    def __init__(self, strides: Sequence[int], output_size: int) -> None:
        super().__init__([str(index) for index in range(len(strides))], output_size, sampling_ratio=0)
        self.scales = [1 / stride for stride in strides]
        levels = [stride.bit_length() - 1 for stride in strides]
        self.map_levels = LevelMapper(levels[0], levels[-1])

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool in the boxes' number format, (boxes of all pictures, C, output_size, output_size)."""
        dtype = next(iter(x.values())).dtype
        precise = {name: features.to(boxes[0].dtype) for name, features in x.items() if name in self.featmap_names}
        pooled: Tensor = super().forward(precise, boxes, image_shapes)
        return pooled.to(dtype)
