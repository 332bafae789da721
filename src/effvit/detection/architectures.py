"""Torchvision's RetinaNet and Mask R-CNN with the numbers of the paper's configurations."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from effvit.detection.backbones import Backbone
from effvit.detection.config import DetectorConfig
from effvit.detection.levels import StrideAnchors, StrideRoIAlign
from effvit.detection.neck import PyramidNeck

RETINANET_SCALES = tuple(4 * 2 ** (step / 3) for step in range(3))
"""Side of RetinaNet's square anchors over the stride."""
PROPOSAL_SCALES = (8.0,)
"""Side of the region proposal network's square anchors over the stride."""
MAX_ROI_STRIDE = 32
"""Coarsest level that Mask R-CNN takes the features of a box from, in pixels."""
_PUBLISHED_CHANNELS = 256
"""Width of neck and heads in the paper's configurations, which torchvision's first weights are made for."""
_BOX_FEATURES = 1024
"""Width of the two linear layers that torchvision puts on the features of a box, as the paper's configuration does."""


class Trunk(nn.Module):
    """Backbone and neck as torchvision's detectors want them: levels by name, all of one width."""

    def __init__(self, body: Backbone, neck: PyramidNeck, channels: int) -> None:
        super().__init__()
        self.body = body
        self.neck = neck
        self.out_channels = channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """The levels "0", "1", ... of a batch of pictures, in the number format of the weights."""
        levels = self.neck(self.body(x.to(next(self.neck.parameters()).dtype)))
        return OrderedDict((str(index), level) for index, level in enumerate(levels))


def retinanet(trunk: Trunk, config: DetectorConfig) -> nn.Module:
    """RetinaNet with the paper's anchors and thresholds."""
    model: Any = RetinaNet(
        trunk,
        config.num_classes,
        **_picture_options(config),
        anchor_generator=StrideAnchors(trunk.neck.strides, RETINANET_SCALES),
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.max_detections,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.4,
        topk_candidates=1000,
    )
    _keep_signal(model.head, config.neck_channels)
    _widen(model, "head")
    made: nn.Module = model
    return made


def mask_rcnn(trunk: Trunk, config: DetectorConfig) -> nn.Module:
    """Mask R-CNN with the paper's anchors, proposals and levels; its label 0 is the background.

    The convolutions of the mask head are as wide as the neck (256 in the paper's configuration, both).
    """
    strides, channels = trunk.neck.strides, config.neck_channels
    pooled = [stride for stride in strides if stride <= MAX_ROI_STRIDE]
    model: Any = MaskRCNN(
        trunk,
        **_picture_options(config),
        rpn_anchor_generator=StrideAnchors(strides, PROPOSAL_SCALES),
        rpn_pre_nms_top_n_train=2000,
        rpn_post_nms_top_n_train=1000,
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=1000,
        box_roi_pool=StrideRoIAlign(pooled, 7),
        box_predictor=FastRCNNPredictor(_BOX_FEATURES, config.num_classes + 1),
        mask_roi_pool=StrideRoIAlign(pooled, 14),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, config.num_classes + 1),
        box_score_thresh=config.score_threshold,
        box_nms_thresh=config.nms_threshold,
        box_detections_per_img=config.max_detections,
    )
    _keep_signal(model.rpn.head, config.neck_channels)
    _widen(model, "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor")
    made: nn.Module = model
    return made


def _picture_options(config: DetectorConfig) -> dict[str, Any]:
    """Torchvision resizes in evaluation only: in training it would draw the size, even of one."""
    return {
        "min_size": config.min_size,
        "max_size": config.max_size,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
        "size_divisible": 32,
        "_skip_resize": True,
    }


def _keep_signal(head: nn.Module, channels: int) -> None:
    """Start a head that is narrower than the paper's with weights as much larger as its sums are shorter.

    Torchvision draws them with a standard deviation of 0.01 at any width. With 64 channels a picture's signal then
    shrinks to a thousandth through four convolutions, and the first epochs teach nothing; with 256 it is as published.
    """
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(math.sqrt(_PUBLISHED_CHANNELS / channels))


def _widen(model: nn.Module, *names: str) -> None:
    """Have modules give float32 at least: what follows them decodes coordinates, in the format they come in."""
    for name in names:
        model.get_submodule(name).register_forward_hook(_widened_output)


def _widened_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    return _widened(output)


def _widened(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.to(torch.promote_types(output.dtype, torch.float32))
    if isinstance(output, dict):
        return {name: _widened(each) for name, each in output.items()}
    return type(output)(_widened(each) for each in output)
