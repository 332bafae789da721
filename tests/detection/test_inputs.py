from __future__ import annotations

import pytest
import torch
from detectors import pictures, target

from effvit.detection.inputs import as_pictures, check_targets, resized
from effvit.errors import ConfigError, DataError


def test_bytes_are_the_same_as_their_share_of_255() -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        first, second = as_pictures([image, image.to(dtype) / 255], dtype)
        assert first.dtype == dtype and torch.equal(first, second)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 8, 8), r"a picture must be a tensor \(3, height, width\), got \(1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), r"got \(2, 3, 8, 8\)"),
        (torch.zeros(3, 0, 8), r"got \(3, 0, 8\)"),
        ("a.jpg", "got str"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"uint8, or float in 0..1, got torch.int64"),
    ],
)
def test_what_is_no_picture(image: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_pictures([image], torch.float32)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[1.0, 2.0, 1.0, 8.0]])}, r"target 0: a box must be .* with an area, got \[1.0, 2.0"),
        ({"boxes": torch.tensor([[1.0, 2.0, float("nan"), 8.0]])}, r"target 0: a box must be"),
        ({"boxes": torch.zeros(4)}, r"boxes must be float \(N, 4\), got torch.float32 \(4,\)"),
        ({"boxes": torch.ones(1, 4, dtype=torch.int64)}, r"boxes must be float \(N, 4\), got torch.int64"),
        ({"labels": torch.tensor([3])}, r"labels must be in 0\.\.2, got 3"),
        ({"labels": torch.tensor([-1])}, r"labels must be in 0\.\.2, got -1"),
        ({"labels": torch.tensor([1.0])}, r"labels must be int64 \(1,\), got torch.float32"),
        ({"labels": torch.tensor([1, 2])}, r"labels must be int64 \(1,\), got torch.int64 \(2,\)"),
        ({"masks": torch.zeros(1, 8, 8)}, r"masks must be \(1, 20, 30\), got \(1, 8, 8\)"),
    ],
)
def test_faults_of_targets_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    (picture,) = pictures((20, 30))
    good = target(picture, ((1, 2, 9, 8), 1))
    check_targets([picture], [good], num_classes=3, task="masks")
    with pytest.raises(DataError, match=message):
        check_targets([picture], [{**good, **change}], num_classes=3, task="masks")


def test_a_target_for_each_picture() -> None:
    (picture,) = pictures((20, 30))
    for targets, got in ((None, "None"), ([], "0")):
        with pytest.raises(ConfigError, match=f"training needs pictures and a target for each, got 1 and {got}"):
            check_targets([picture], targets, num_classes=3, task="boxes")
    with pytest.raises(DataError, match="target 0: labels, masks missing"):
        check_targets([picture], [{"boxes": torch.zeros(0, 4)}], num_classes=3, task="masks")


@pytest.mark.parametrize(
    ("size", "short", "expected"), [((50, 80), 100, (100, 160)), ((80, 50), 25, (40, 25)), ((20, 100), 100, (32, 160))]
)
def test_resizing_brings_boxes_and_masks_along(size: tuple[int, int], short: int, expected: tuple[int, int]) -> None:
    (picture,) = pictures(size)
    box = (4, 2, 24, 16)
    before = target(picture, (box, 1))
    after, moved = resized(picture, before, short, max_size=160)
    assert after.shape == (3, *expected)
    ratio = torch.tensor([expected[1] / size[1], expected[0] / size[0]] * 2)
    torch.testing.assert_close(moved["boxes"][0], torch.tensor(box) * ratio)
    rows, columns = moved["masks"][0].nonzero().T
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert (torch.tensor(found) - moved["boxes"][0]).abs().max() <= 1
    assert before["boxes"][0].tolist() == list(box)


def test_resizing_draws_nothing() -> None:
    (picture,) = pictures((20, 30))
    state = torch.get_rng_state()
    resized(picture, target(picture), 40, max_size=60)
    assert torch.equal(torch.get_rng_state(), state)
