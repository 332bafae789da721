from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effvit.data.datasets import PictureData
from effvit.errors import ConfigError, DataError
from effvit.preprocessing import Preprocessing
from effvit.train.predict import predict_pictures

SMALL = Preprocessing(image_size=(32, 32))
WEIGHT = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])


def by_color(batch: torch.Tensor) -> torch.Tensor:
    return batch.mean(dim=(2, 3)) @ WEIGHT


def test_results_come_in_order_with_the_unreadable_in_place(data: PictureData, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    paths = [data.val[0].path, bad, *(sample.path for sample in data.val[1:]), bad]
    results = predict_pictures(
        by_color, paths, preprocessing=SMALL, class_names=data.class_names, batch_size=2, top_k=2
    )
    assert [result.path for result in results] == paths
    for result in results:
        if result.path == bad:
            assert result.classes == () and result.error is not None and "bad.jpg" in result.error
        else:
            (first, probability), (second, lower) = result.classes
            assert result.error is None and first != second and 1 >= probability >= lower > 0


def test_batch_size_does_not_matter_and_all_classes_sum_to_one(data: PictureData) -> None:
    paths = [sample.path for sample in data.val]
    one, all_at_once = (
        predict_pictures(by_color, paths, preprocessing=SMALL, class_names=data.class_names, batch_size=size, top_k=10)
        for size in (1, 64)
    )
    for a, b in zip(one, all_at_once, strict=True):
        assert [name for name, _ in a.classes] == [name for name, _ in b.classes]
        assert sorted(name for name, _ in a.classes) == list(data.class_names)
        assert sum(probability for _, probability in a.classes) == pytest.approx(1)


def test_top_k_must_be_positive(data: PictureData) -> None:
    with pytest.raises(ConfigError, match="top_k must be at least 1, got 0"):
        predict_pictures(by_color, [data.val[0].path], preprocessing=SMALL, class_names=data.class_names, top_k=0)


def test_network_with_other_classes_is_refused(data: PictureData) -> None:
    with pytest.raises(DataError, match=r"outputs of shape \(1, 3\) for 2 classes"):
        predict_pictures(by_color, [data.val[0].path], preprocessing=SMALL, class_names=["a", "b"])
