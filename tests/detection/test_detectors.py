from __future__ import annotations

import copy
import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detectors import CLASSES, pictures, target, tiny_config, tiny_detector, total
from helpers import randomise, relative_error
from timm.utils import ModelEmaV3
from torch import Tensor

import effvit
from effvit.detection.detectors import Detector, create_detector
from effvit.detection.records import Detections
from effvit.errors import ConfigError, DataError
from effvit.preprocessing import Preprocessing
from effvit.train.freezing import set_training

TASKS = ("boxes", "masks")
SIZES = ((75, 101), (60, 50))


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = pictures(*SIZES)
    targets = [target(images[0], ((5, 5, 40, 50), 2), ((30, 20, 95, 70), 0)), target(images[1], ((10, 10, 45, 40), 1))]
    return images, targets


def same(first: Detections, second: Detections) -> bool:
    pairs = [(first.boxes, second.boxes), (first.scores, second.scores), (first.labels, second.labels)]
    pairs += [] if first.masks is None else [(first.masks, second.masks)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backbone", ["efficientvit_tiny", "timm:mobilenetv2_035"])
def test_every_parameter_gets_a_gradient(task: str, backbone: str) -> None:
    detector = tiny_detector(task, backbone=backbone)
    for _ in range(4):  # Mask R-CNN draws the anchors it looks at, and may draw none of a coarse level
        losses = detector(*batch())
        assert all(loss.isfinite() for loss in losses.values())
        total(losses).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("task", TASKS)
def test_pictures_without_boxes_train(task: str) -> None:
    detector = tiny_detector(task)
    images = pictures(*SIZES)
    losses = detector(images, [target(image) for image in images])
    assert all(loss.isfinite() for loss in losses.values())
    total(losses).backward()
    gradients = [parameter.grad for parameter in detector.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    one_empty = detector(images, [target(images[0]), target(images[1], ((10, 10, 45, 40), 1))])
    assert all(loss.isfinite() for loss in one_empty.values())


@pytest.mark.parametrize("task", TASKS)
def test_what_is_found(task: str) -> None:
    detector = tiny_detector(task)
    images = pictures((75, 101), (60, 50), (33, 200), (97, 31))
    found = detector.detect(images)
    assert len(found) == 4
    for detections, image in zip(found, images, strict=True):
        height, width = image.shape[1:]
        assert 0 < len(detections) <= 8
        assert detections.boxes.dtype == detections.scores.dtype == torch.float32
        assert detections.labels.dtype == torch.int64
        assert detections.boxes.min() >= 0
        assert (detections.boxes <= torch.tensor([width, height] * 2)).all()
        assert (detections.scores.diff() <= 0).all() and detections.scores.max() > detections.scores.min()
        assert set(detections.labels.tolist()) <= set(range(len(CLASSES)))
        assert (detections.masks is None) == (task == "boxes")
        if detections.masks is not None:
            assert detections.masks.dtype == torch.bool
            assert detections.masks.shape == (len(detections), height, width)
    assert len({int(label) for detections in found for label in detections.labels}) > 1
    assert detector.detect([]) == []


@pytest.mark.parametrize("label", range(3))
@pytest.mark.parametrize("task", TASKS)
def test_labels_go_in_and_come_out_as_places_in_the_class_names(task: str, label: int) -> None:
    """A detector that is all for one class finds it, and has the least loss where that is what is there."""
    detector = tiny_detector(task, score_threshold=0.3)
    images = pictures(*SIZES)
    with torch.no_grad():
        if task == "masks":
            layer = detector.model.roi_heads.box_predictor.cls_score
            biases = torch.zeros(1 + len(CLASSES))  # torchvision's background is first
            biases[1 + label] = 3
        else:
            layer = detector.model.head.classification_head.cls_logits
            biases = torch.full((9, len(CLASSES)), -6.0)  # by anchor of a cell
            biases[:, label] = 1
        layer.weight.zero_()
        layer.bias.copy_(biases.flatten())
    assert all(len(found) > 0 and (found.labels == label).all() for found in detector.detect(images))
    losses = []
    for there in range(3):
        torch.manual_seed(0)  # Mask R-CNN looks at a random part of its boxes
        found = detector(images, [target(image, ((5, 5, 45, 50), there)) for image in images])
        losses.append(found["loss_classifier" if task == "masks" else "classification"].item())
    assert losses.index(min(losses)) == label and max(losses) > min(losses) + 1e-4


@pytest.mark.parametrize("task", TASKS)
def test_two_pictures_are_two_times_one(task: str) -> None:
    detector = tiny_detector(task).double().eval()
    images = [image.double() for image in pictures((75, 101), (75, 101))]
    with torch.no_grad():
        together = detector(images)
        apart = [detector([image])[0] for image in images]
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one["labels"], other["labels"]) and len(one["labels"]) > 0
        for name in one.keys() - {"labels"}:
            assert one[name].dtype == torch.float64
            assert relative_error(one[name], other[name]) < 1e-9, name


def test_losses_are_means_over_the_pictures() -> None:
    detector = tiny_detector().double()
    first, second = (image.double() for image in pictures((75, 101), (75, 101)))
    targets = [target(first, ((5, 5, 40, 50), 2)), target(second, ((10, 10, 45, 40), 1), ((2, 2, 90, 70), 0))]
    set_training(detector, freeze_norm=True)
    with torch.no_grad():
        together = detector([first, second], targets)
        apart = [detector([first], targets[:1]), detector([second], targets[1:])]
    for name, loss in together.items():
        assert relative_error(loss, (apart[0][name] + apart[1][name]) / 2) < 1e-9


@pytest.mark.parametrize("task", TASKS)
def test_bytes_are_the_same_as_their_share_of_255(task: str) -> None:
    detector = tiny_detector(task)
    image = (pictures((75, 101))[0] * 255).to(torch.uint8)
    (from_bytes,), (from_floats,) = detector.detect([image]), detector.detect([image.float() / 255])
    assert same(from_bytes, from_floats)


@pytest.mark.parametrize(
    ("task", "dtype"),
    [
        *(("boxes", dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)),
        ("masks", torch.bfloat16),  # takes the way of float16, whose convolutions take seconds on a CPU
    ],
)
def test_number_formats(task: str, dtype: torch.dtype) -> None:
    """Every format trains and finds, and what heads say of boxes is never below float32."""
    detector = tiny_detector(task)
    images, targets = batch()
    other = copy.deepcopy(detector).to(dtype)
    losses = other(images, targets)
    assert {loss.dtype for loss in losses.values()} <= {torch.float32, torch.promote_types(dtype, torch.float32)}
    total(losses).backward()
    if task == "boxes":  # of Mask R-CNN, torch draws which boxes count
        for name, loss in detector(images, targets).items():
            assert losses[name].item() == pytest.approx(loss.item(), rel=0.02)
    assert all(len(found) > 0 and found.boxes.dtype == torch.float32 for found in other.detect(images))


@pytest.mark.parametrize("task", TASKS)
def test_autocast(task: str) -> None:
    detector = tiny_detector(task)
    images, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    total(losses).backward()


@pytest.mark.parametrize("task", TASKS)
def test_channels_last(task: str) -> None:
    detector = tiny_detector(task).double().eval()
    images = [image.double() for image in pictures(*SIZES)]
    other = copy.deepcopy(detector).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for one, two in zip(detector(images), other(images), strict=True):
            assert relative_error(one["boxes"], two["boxes"]) < 1e-9
    assert total(other.train()(*batch())).isfinite()


def test_sizes_are_the_callers() -> None:
    """Multi-scale training: the short side of each picture, and nothing is drawn."""
    detector = tiny_detector(max_size=400)
    images, targets = batch()
    seen: list[torch.Size] = []
    detector.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    state = torch.get_rng_state()
    for sizes in (None, [96, 96], [64, 128], [128, 64]):
        detector(images, targets, sizes=sizes)
    assert torch.equal(torch.get_rng_state(), state)
    # 75 x 101 and 60 x 50 at short sides 96, 64, 128; padded to multiples of 32.
    assert [tuple(size[2:]) for size in seen] == [(128, 160), (128, 160), (160, 128), (128, 192)]
    with pytest.raises(ConfigError, match="sizes must be one for each of 2 pictures, got 1"):
        detector(images, targets, sizes=[96])


def test_training_and_evaluation_see_the_same_picture() -> None:
    detector = tiny_detector().double()
    seen: list[Tensor] = []
    detector.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images, targets = batch()
    detector(images, targets)
    detector.detect(images)
    assert relative_error(*seen) < 1e-12


@pytest.mark.parametrize("task", TASKS)
def test_modes_stay_as_they_are(task: str) -> None:
    detector = tiny_detector(task)
    images = pictures(*SIZES)
    assert detector.train() is detector and detector.eval() is detector
    detector.train()
    detector.trunk.body.eval()
    before = [module.training for module in detector.modules()]
    state = copy.deepcopy(detector.state_dict())
    in_training = detector.detect(images)
    assert [module.training for module in detector.modules()] == before
    assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    assert all(same(*pair) for pair in zip(in_training, detector.eval().detect(images), strict=True))
    with pytest.raises(DataError, match="a picture must be a tensor"):
        detector.train().detect([torch.zeros(8, 8)])
    assert detector.training


@pytest.mark.parametrize("task", TASKS)
def test_copies_and_averages_are_detectors_of_their_own(task: str) -> None:
    detector = tiny_detector(task)
    images = pictures(*SIZES)
    expected = detector.detect(images)
    average = ModelEmaV3(detector, decay=0.0)
    copied = pickle.loads(pickle.dumps(detector))
    for other in (average.module, copied):
        assert all(same(*pair) for pair in zip(other.detect(images), expected, strict=True))
    randomise(detector, seed=5)
    changed = detector.detect(images)
    assert not all(same(*pair) for pair in zip(changed, expected, strict=True))
    assert all(same(*pair) for pair in zip(copied.detect(images), expected, strict=True))
    average.update(detector)
    assert all(same(*pair) for pair in zip(average.module.detect(images), changed, strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_one_detector_at_several_sizes_remembers_none(task: str) -> None:
    unused = tiny_detector(task, min_size=32, max_size=320).bfloat16().float()
    used = copy.deepcopy(unused)
    used.detect(pictures((40, 35), (40, 500)))
    used.bfloat16().detect(pictures((40, 35)))
    (image,) = pictures((300, 280))
    assert same(used.float().detect([image])[0], unused.detect([image])[0])


@pytest.mark.parametrize(("task", "strides"), [("boxes", (8, 16, 32, 64, 128)), ("masks", (4, 8, 16, 32, 64))])
@pytest.mark.parametrize("backbone", ["efficientvit_tiny", "timm:mobilenetv2_100", "timm:mobilenetv3_large_100"])
def test_levels(task: str, strides: tuple[int, ...], backbone: str) -> None:
    detector = create_detector(tiny_config(task, backbone=backbone))
    assert detector.strides == strides
    levels = detector.trunk(torch.zeros(1, 3, 128, 256))
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 16, 128 // stride, 256 // stride) for stride in strides
    ]


def test_the_papers_retinanet() -> None:
    model = create_detector(replace(tiny_config(), neck_channels=256, score_threshold=0.05, max_detections=100)).model
    assert model.anchor_generator.strides == (8, 16, 32, 64, 128)
    assert model.anchor_generator.sizes[0] == pytest.approx((32, 40.3175, 50.7968), rel=1e-5)
    assert model.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    matcher = model.proposal_matcher
    assert (matcher.high_threshold, matcher.low_threshold, matcher.allow_low_quality_matches) == (0.5, 0.4, True)
    assert (model.score_thresh, model.nms_thresh, model.topk_candidates, model.detections_per_img) == (
        *(0.05, 0.5),
        *(1000, 100),
    )


def test_the_papers_mask_rcnn() -> None:
    model = create_detector(tiny_config("masks", score_threshold=0.05, max_detections=100)).model
    assert model.rpn.anchor_generator.strides == (4, 8, 16, 32, 64)
    assert [sizes[0] for sizes in model.rpn.anchor_generator.sizes] == [32, 64, 128, 256, 512]
    assert model.rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    assert model.rpn._post_nms_top_n == {"training": 1000, "testing": 1000}
    assert model.rpn.nms_thresh == 0.7
    for pool, side in ((model.roi_heads.box_roi_pool, 7), (model.roi_heads.mask_roi_pool, 14)):
        assert pool.output_size == (side, side) and pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert (model.roi_heads.score_thresh, model.roi_heads.nms_thresh, model.roi_heads.detections_per_img) == (
        *(0.05, 0.5),
        100,
    )
    assert model.roi_heads.box_predictor.cls_score.out_features == 1 + len(CLASSES)


def test_targets_and_sizes_belong_to_training() -> None:
    detector = tiny_detector()
    images, targets = batch()
    with pytest.raises(ConfigError, match="training needs pictures and a target for each, got 2 and None"):
        detector(images)
    with pytest.raises(ConfigError, match="targets and sizes are for training mode"):
        detector.eval()(images, targets)
    with pytest.raises(ConfigError, match="targets and sizes are for training mode"):
        detector(images, sizes=[96, 96])


def test_a_folder_as_backbone_is_written_down_whole(tmp_path: Path) -> None:
    config = replace(effvit.create_model("efficientvit_tiny").config, name="mine", activation="silu")
    folder = effvit.save(tmp_path / "weights", effvit.create_model(config))
    detector = create_detector(tiny_config(backbone=str(folder)))
    assert isinstance(detector.config.backbone, dict) and detector.config.backbone["name"] == "mine"
    again = Detector(detector.config, create_detector(detector.config).trunk.body)
    again.load_state_dict(detector.state_dict())


def test_another_scale_of_colours_than_the_weights_expect_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = (0.5, 0.5, 0.5)
    info = effvit.WeightsInfo(preprocessing=Preprocessing(mean=half, std=half))
    folder = effvit.save(tmp_path / "weights", effvit.create_model("efficientvit_tiny"), info)
    with caplog.at_level(logging.WARNING):
        create_detector(tiny_config(mean=half, std=half), weights=folder)
        assert not caplog.records
        create_detector(tiny_config(), weights=folder)
    assert "the backbone's weights expect mean (0.5, 0.5, 0.5)" in caplog.text


@pytest.mark.parametrize("task", ["boxes", "masks"])
def test_a_narrow_head_begins_with_as_strong_a_signal_as_a_wide_one(task: str) -> None:
    def strength(channels: int) -> float:
        torch.manual_seed(0)
        model: Any = create_detector(tiny_config(task, neck_channels=channels)).model
        head = model.rpn.head.conv if task == "masks" else model.head.classification_head.conv
        return float(head(torch.randn(2, channels, 12, 12)).detach().std())

    assert strength(16) == pytest.approx(strength(256), rel=0.5)


def test_the_longest_side_grows_with_the_scale() -> None:
    """Else a wide picture, which the longest side limits, would have one size at every scale from 1 up."""
    detector = tiny_detector(min_size=64, max_size=96)
    seen: list[tuple[int, ...]] = []
    detector.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    (image,) = pictures((40, 120))
    for size in (64, 128):
        detector([image], [target(image, ((5, 5, 90, 30), 1))], sizes=[size])
    assert seen == [(32, 96), (64, 192)]
