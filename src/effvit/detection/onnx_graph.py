"""A detector as one graph for a picture of any size: torchvision's lists and loops said in operators.

The networks, heads, box coders and numbers are the detector's own; written anew is only what stands between them.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from effvit.deploy.network import Layout
from effvit.deploy.rewrite import rewrite
from effvit.detection.onnx_operators import best_boxes
from effvit.errors import ExportError
from effvit.model.network import EfficientViT

_OUT = -1.0
"""Score of boxes that are too small to count."""
_NOMINAL_SIDE = 512
"""Pixels of the picture on which the strides of the maps are read."""


def as_graph(model: nn.Module, image_size: tuple[int, int] | None = None) -> DetectorGraph:
    """The graph of a detector, our networks in it in the deploy form; the model is not changed.

    Args:
        model: A detector of torchvision's.
        image_size: Height and width that the network is fed, to fix the graph to; None for any.

    Raises:
        ExportError: If it is no RetinaNet, Faster R-CNN or Mask R-CNN.
    """
    for kind, graph in ((RetinaNet, RetinaNetGraph), (FasterRCNN, RCNNGraph)):
        if isinstance(model, kind):
            return graph(with_deploy_form(model, image_size=image_size))
    raise ExportError(f"only RetinaNet, Faster R-CNN and Mask R-CNN can be exported, got {type(model).__name__}")


def with_deploy_form(model: nn.Module, layout: Layout = "maps", image_size: tuple[int, int] | None = None) -> nn.Module:
    """A copy in eval mode and float32 on the CPU, its `EfficientViT` rewritten; others stay as they are."""
    result = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    for name, module in list(result.named_modules()):
        if isinstance(module, EfficientViT):
            exact = copy.deepcopy(module).double()  # rounded once, at the end
            result.set_submodule(name, MapsOf(rewrite(exact, layout=layout, image_size=image_size).to(torch.float32)))
    return result


class MapsOf(nn.Module):
    """A deploy form that is called for its maps, as a backbone is."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """The map of each stage, see `EfficientViT.features`."""
        maps: list[Tensor] = self.network.features(x)
        return maps


class DetectorGraph(nn.Module):
    """Normalised, padded picture -> maps -> boxes in pixels of the picture as it was given.

    Args:
        model: A detector of torchvision's, in eval mode.
    """

    output_names: tuple[str, ...] = ("boxes", "scores", "labels")

    def __init__(self, model: Any, anchor_generator: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.strides: tuple[int, ...] | None = getattr(anchor_generator, "strides", None)
        for level, cell in enumerate(anchor_generator.cell_anchors):
            self.register_buffer(f"cell_{level}", cell.float())
        self.eval()

    def maps_of(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps of backbone and neck by name."""
        maps = self.backbone(images)
        return OrderedDict([("0", maps)]) if isinstance(maps, Tensor) else maps

    def anchors(self, level: int, feature_map: Tensor, images: Tensor) -> Tensor:
        """Anchors of one level, (h * w * A, 4), at the places torchvision puts them."""
        cell: Tensor = getattr(self, f"cell_{level}")
        height, width = feature_map.shape[-2:]
        if self.strides is None:  # as torchvision's own generator infers them
            strides = images.shape[2] // height, images.shape[3] // width
        else:
            strides = self.strides[level], self.strides[level]
        y, x = torch.arange(height) * strides[0], torch.arange(width) * strides[1]
        y, x = y[:, None].expand(height, width), x[None, :].expand(height, width)
        places = torch.stack([x, y, x, y], 2).reshape(-1, 1, 4).float()  # (h, w, 4) -> (h * w, 1, 4)
        return (places + cell).reshape(-1, 4)  # (h * w, A, 4) -> (h * w * A, 4)


class RetinaNetGraph(DetectorGraph):
    """One stage: the surest of each level, then suppression over all levels."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.anchor_generator)
        self.classification, self.regression = model.head.classification_head, model.head.regression_head
        self.coder = model.box_coder
        self.num_candidates: int = model.topk_candidates
        self.limits: tuple[float, int] = (model.nms_thresh, model.detections_per_img)

    def forward(self, images: Tensor, size: Tensor, given: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        """Find things.

        Args:
            images: Normalised and padded, (1, 3, H, W).
            size: Height and width without the padding, float32.
            given: Height and width of the picture as it was given, float32.
            threshold: Score above which a box counts, (1,).

        Returns:
            Boxes (N, 4), scores (N,), labels (N,), see `effvit.detection.records.Detections`.
        """
        found: list[tuple[Tensor, ...]] = []
        num_labels = 1
        for level, feature_map in enumerate(self.maps_of(images).values()):
            logits = self.classification([feature_map])[0]  # (h * w * A, num_labels)
            num_labels = logits.shape[1]
            scores = logits.sigmoid().flatten()
            scores, index = scores.topk(torch.sym_min(scores.shape[0], self.num_candidates))
            anchor = index // num_labels
            deltas = self.regression([feature_map])[0].index_select(0, anchor)
            anchors = self.anchors(level, feature_map, images).index_select(0, anchor)
            found.append((self.coder.decode_single(deltas, anchors), scores, index % num_labels))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        boxes = clipped(boxes, size)
        index = best_boxes(boxes, scores, labels, threshold, num_labels, *self.limits)
        return in_picture(boxes[index], size, given), scores[index], labels[index]


class RCNNGraph(DetectorGraph):
    """Two stages: proposals, then each looked at closely; a mask for each box where the detector has masks."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.rpn.anchor_generator)
        self.rpn, self.roi = model.rpn, model.roi_heads
        self.has_masks = isinstance(model, MaskRCNN)
        if self.has_masks:
            self.output_names = (*self.output_names, "masks")
        for pool in (self.roi.box_roi_pool, self.roi.mask_roi_pool):
            if pool is not None and pool.scales is None:
                _set_scales(pool, self)

    def forward(self, images: Tensor, size: Tensor, given: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        """See `RetinaNetGraph.forward`; with masks also how sure of each pixel inside its box, (N, 28, 28)."""
        maps = self.maps_of(images)
        proposals = self.proposals(list(maps.values()), images, size)
        boxes, scores, labels = self.classified(maps, proposals, size, threshold)
        if not self.has_masks:
            return in_picture(boxes, size, given), scores, labels
        features = self.roi.mask_head(self.pooled(self.roi.mask_roi_pool, maps, boxes))
        logits: Tensor = self.roi.mask_predictor(features)  # (N, num_labels + 1, 28, 28)
        own = (labels + 1)[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        masks = logits.gather(1, own).sigmoid()[:, 0]  # (N, 1, 28, 28) -> (N, 28, 28)
        return in_picture(boxes, size, given), scores, labels, masks

    def proposals(self, maps: Sequence[Tensor], images: Tensor, size: Tensor) -> Tensor:
        """Boxes in which something may be, (N, 4)."""
        rpn = self.rpn
        found: list[tuple[Tensor, ...]] = []
        for level, (logits, deltas) in enumerate(zip(*rpn.head(list(maps)), strict=True)):
            scores = logits.permute(0, 2, 3, 1).flatten()  # (1, A, h, w) -> (h * w * A,)
            scores, index = scores.topk(torch.sym_min(scores.shape[0], rpn.pre_nms_top_n()))
            deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(-1, 4)  # -> (h * w * A, 4)
            anchors = self.anchors(level, maps[level], images).index_select(0, index)
            boxes = rpn.box_coder.decode_single(deltas.index_select(0, index), anchors)
            found.append((boxes, scores, torch.full_like(index, level)))
        boxes, scores, levels = (torch.cat(parts) for parts in zip(*found, strict=True))
        boxes = clipped(boxes, size)
        scores = large_enough(boxes, scores.sigmoid(), rpn.min_size)
        threshold = torch.tensor([rpn.score_thresh])
        return boxes[best_boxes(boxes, scores, levels, threshold, len(found), rpn.nms_thresh, rpn.post_nms_top_n())]

    def classified(
        self, maps: OrderedDict[str, Tensor], proposals: Tensor, size: Tensor, threshold: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is in the proposals: boxes, scores, labels without the background."""
        roi = self.roi
        features = roi.box_head(self.pooled(roi.box_roi_pool, maps, proposals))
        logits, deltas = roi.box_predictor(features)  # (N, num_labels + 1), (N, 4 * (num_labels + 1))
        num_labels = logits.shape[1] - 1
        boxes = roi.box_coder.decode_single(deltas, proposals).unflatten(1, (-1, 4))[:, 1:]  # (N, num_labels, 4)
        scores = logits.softmax(1)[:, 1:]
        labels = torch.arange(num_labels).expand_as(scores).reshape(-1)
        boxes, scores = clipped(boxes.reshape(-1, 4), size), scores.reshape(-1)
        index = best_boxes(
            boxes,
            large_enough(boxes, scores, 1e-2),
            labels,
            threshold,
            num_labels,
            roi.nms_thresh,
            roi.detections_per_img,
        )
        return boxes[index], scores[index], labels[index]

    def pooled(self, pool: MultiScaleRoIAlign, maps: OrderedDict[str, Tensor], boxes: Tensor) -> Tensor:
        """The features in each box, from the level that suits its size, (N, C, *pool.output_size)."""
        kept = [feature_map for name, feature_map in maps.items() if name in pool.featmap_names]
        regions = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
        assert pool.scales is not None and pool.map_levels is not None
        if len(kept) == 1:
            only: Tensor = roi_align(kept[0], regions, pool.output_size, pool.scales[0], pool.sampling_ratio)
            return only
        levels = pool.map_levels([boxes])
        parts = [
            roi_align(
                feature_map, regions[torch.where(levels == level)[0]], pool.output_size, scale, pool.sampling_ratio
            )
            for level, (feature_map, scale) in enumerate(zip(kept, pool.scales, strict=True))
        ]
        places = torch.arange(boxes.shape[0])
        order = (levels * boxes.shape[0] + places).argsort()  # as the parts lie one after the other
        return torch.cat(parts).index_select(0, order.argsort())


def _set_scales(pool: MultiScaleRoIAlign, graph: DetectorGraph) -> None:
    """What torchvision's own pooling remembers from its first picture, from one on which no rounding can be wrong."""
    with torch.inference_mode():
        maps = graph.maps_of(torch.zeros(1, 3, _NOMINAL_SIDE, _NOMINAL_SIDE))
    sides = [feature_map.shape[2] for name, feature_map in maps.items() if name in pool.featmap_names]
    levels = [round(math.log2(_NOMINAL_SIDE / side)) for side in sides]
    pool.scales = [2.0**-level for level in levels]
    pool.map_levels = LevelMapper(levels[0], levels[-1], pool.canonical_scale, pool.canonical_level)


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes without what reaches over the picture, (N, 4); size: height and width."""
    return torch.minimum(boxes.clamp(min=0), size.flip(0).repeat(2))


def large_enough(boxes: Tensor, scores: Tensor, side: float) -> Tensor:
    """Scores, with those of boxes with a smaller side out of the running."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.where((sides >= side).all(1), scores, _OUT)


def in_picture(boxes: Tensor, size: Tensor, given: Tensor) -> Tensor:
    """Boxes from pixels of the network's picture to pixels of the one it was made from, which they stay inside."""
    return clipped(boxes * (given / size).flip(0).repeat(2), given)
