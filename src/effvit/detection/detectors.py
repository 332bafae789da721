"""A detector: a backbone, the paper's neck, and torchvision's RetinaNet or Mask R-CNN."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from effvit.detection.architectures import Trunk, mask_rcnn, retinanet
from effvit.detection.backbones import Backbone, find_backbone
from effvit.detection.config import DetectorConfig
from effvit.detection.inputs import as_pictures, check_not_too_narrow, check_targets, resized
from effvit.detection.neck import PYRAMIDS, PyramidNeck
from effvit.detection.parameters import detector_groups
from effvit.detection.records import Detections
from effvit.errors import ConfigError
from effvit.model.groups import attention_bias_names

logger = logging.getLogger("effvit")

MASK_THRESHOLD = 0.5
"""From which probability on a pixel belongs to a thing."""


class Detector(nn.Module):
    """Finds things in pictures of any size; see `create_detector` for the usual way to get one.

    RetinaNet (boxes) and Mask R-CNN (masks) are torchvision's, with the anchors, thresholds and numbers of proposals
    of the paper's configurations. What torchvision does otherwise than mmdetection, in which the paper's were trained:

    - Mask R-CNN's box losses are smooth L1 (turning at 1/9), mmdetection's plain L1.
    - RetinaNet's losses are divided by each picture's own number of matched anchors, then averaged over pictures;
      mmdetection divides by the number in all pictures of the batch.
    - The positions of RoIAlign are shifted by half a cell (`aligned=False`).
    - The sides of a resized picture are rounded down, not to the nearest.

    Everything between pictures and feature maps, and between the heads and boxes, is computed in float32 at least,
    also where the weights are in half precision or autocast is on: a coordinate of 1,333 does not fit into fewer bits.

    Args:
        config: What to build.
        backbone: From `find_backbone`, for the same task.
    """

    def __init__(self, config: DetectorConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        finest, coarsest = PYRAMIDS[config.task]
        neck = PyramidNeck(backbone.output_shapes(), finest=finest, coarsest=coarsest, channels=config.neck_channels)
        trunk = Trunk(backbone, neck, config.neck_channels)
        self.model = (mask_rcnn if config.task == "masks" else retinanet)(trunk, config)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level of the pyramid, in pixels."""
        return self.trunk.neck.strides

    @property
    def trunk(self) -> Trunk:
        """Backbone and neck."""
        return cast(Trunk, self.model.backbone)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        *,
        sizes: Sequence[int] | None = None,
    ) -> Any:
        """Losses in training mode, what was found in evaluation mode.

        Args:
            images: Pictures of any sizes, (3, H, W), float in 0..1 or uint8.
            targets: In training mode, for each picture `boxes` (N, 4) float, left top right bottom in its pixels,
                `labels` (N,) int64, positions in the class names, and for masks `masks` (N, H, W) uint8; N may be 0.
            sizes: In training mode, the short side each picture is brought to, in pixels; None for the
                configuration's. The longest side it may have grows alike. So whoever trains draws them, and nothing is
                drawn here but the anchors and boxes that Mask R-CNN's losses look at, by torch's generator.

        Returns:
            In training mode the losses by name, each a mean over the pictures (of Mask R-CNN: over the same number
            of samples from each). In evaluation mode for each picture `boxes`, `scores` (falling), `labels`, and for
            masks `masks`, the probability of each of its pixels, (N, H, W).

        Raises:
            DataError: If a picture or a target is none.
            ConfigError: If targets or sizes come in the wrong mode, or their number is not the pictures'.
        """
        pictures = as_pictures(images, self._dtype())
        for picture in pictures:
            check_not_too_narrow(picture.shape[1], picture.shape[2], self.config.max_size)
        if self.training:
            return self._losses(pictures, targets, sizes)
        if targets is not None or sizes is not None:
            raise ConfigError("targets and sizes are for training mode; call .train() first")
        return [self._outside(found) for found in self.model(pictures)] if pictures else []

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """Find things, whatever mode and device the detector is in, which stay as they are.

        Args:
            images: Pictures of any sizes on any device, (3, H, W), float in 0..1 or uint8.

        Returns:
            What was found in each, on the CPU.

        Raises:
            DataError: If a picture is none.
        """
        modes = [(module, module.training) for module in self.modules()]
        device = next(self.parameters()).device
        self.eval()
        try:
            found = self([image.to(device) for image in images])
        finally:
            for module, mode in modes:
                module.training = mode
        return [_detections(each, (image.shape[1], image.shape[2])) for each, image in zip(found, images, strict=True)]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must leave alone: attention bias tables."""
        return attention_bias_names(self)

    def parameter_groups(
        self, *, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: weight decay on all but the attention bias tables, as in the paper.

        Norms and biases decay too, other than in classification. With layer decay neck and heads learn at
        `learning_rate`, each block of the backbone at `layer_decay` times the rate of the one after it.

        Args:
            learning_rate: Rate of the heads.
            weight_decay: Weight decay.
            layer_decay: Factor per block, in (0, 1]; 1 for one rate everywhere.

        Returns:
            Groups with `params`, `lr`, `weight_decay`, `lr_scale` and `names`.

        Raises:
            ConfigError: If layer_decay is not in (0, 1], or not 1 and the backbone is none of ours.
        """
        return detector_groups(
            self,
            self.trunk.body,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
        )

    def _losses(
        self, pictures: list[Tensor], targets: Sequence[Mapping[str, Tensor]] | None, sizes: Sequence[int] | None
    ) -> dict[str, Tensor]:
        targets = check_targets(pictures, targets, num_classes=self.config.num_classes, task=self.config.task)
        sides = [self.config.min_size] * len(pictures) if sizes is None else list(sizes)
        if len(sides) != len(pictures):
            raise ConfigError(f"sizes must be one for each of {len(pictures)} pictures, got {len(sides)}")
        pairs = [
            resized(picture, target, size, max_size=round(self.config.max_size * size / self.config.min_size))
            for picture, target, size in zip(pictures, targets, sides, strict=True)
        ]
        if self._first_label:
            pairs = [(picture, {**target, "labels": target["labels"] + self._first_label}) for picture, target in pairs]
        losses: dict[str, Tensor] = self.model([picture for picture, _ in pairs], [target for _, target in pairs])
        return losses

    @property
    def _first_label(self) -> int:
        """Torchvision's label of the first class: Mask R-CNN keeps 0 for the background, RetinaNet has none."""
        return 1 if self.config.task == "masks" else 0

    def _outside(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """What torchvision found, by our labels, masks without their one channel."""
        found = {**found, "labels": found["labels"] - self._first_label}
        if "masks" in found:
            found["masks"] = found["masks"][:, 0]  # (N, 1, H, W) -> (N, H, W)
        return found

    def _dtype(self) -> torch.dtype:
        """Of the pictures: that of the weights, float32 at least."""
        return torch.promote_types(next(self.trunk.neck.parameters()).dtype, torch.float32)


def create_detector(config: DetectorConfig, *, weights: str | Path | None = None) -> Detector:
    """Build a detector with a new neck and new heads.

    Args:
        config: What to build.
        weights: Of the backbone, see `find_backbone`.

    Returns:
        A detector in training mode. Its `config` names the backbone so that it can be built again without the folder
        it came from.

    Raises:
        ConfigError: If there is no such backbone or it does not fit.
        WeightsError: If weights cannot be had or do not fit.
    """
    return detector_on(find_backbone(config.backbone, task=config.task, weights=weights), config)


def detector_on(backbone: Backbone, config: DetectorConfig) -> Detector:
    """Build a detector with a new neck and new heads on a backbone that was found for the same task.

    Warns where the backbone's weights expect pictures normalised otherwise than the configuration says.
    """
    expected = backbone.preprocessing
    if expected is not None and (expected.mean, expected.std) != (config.mean, config.std):
        logger.warning(
            "the backbone's weights expect mean %s and std %s, the detector is given %s and %s",
            *(expected.mean, expected.std, config.mean, config.std),
        )
    return Detector(replace(config, backbone=backbone.source), backbone)


def _detections(found: dict[str, Tensor], size: tuple[int, int]) -> Detections:
    """The record of what was found in a picture of a height and width, the surest first."""
    order = found["scores"].argsort(descending=True, stable=True)
    masks = found.get("masks")
    return Detections(
        boxes=clip_boxes_to_image(found["boxes"][order], size).float().cpu(),
        scores=found["scores"][order].float().cpu(),
        labels=found["labels"][order].cpu(),
        masks=None if masks is None else (masks[order] >= MASK_THRESHOLD).cpu(),
    )
