from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from effvit.data.datasets import PictureData
from effvit.data.loaders import PictureLoader
from effvit.data.pictures import read_picture
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform, normalize
from effvit.errors import DataError, RunError
from effvit.preprocessing import Preprocessing
from effvit.train.evaluate import Predict, evaluate, network_predictor
from effvit.train.evaluation import Evaluation

SMALL = Preprocessing(image_size=(32, 32))


def linear_classifier(num_classes: int) -> Predict:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, num_classes, generator=generator)
    return lambda batch: batch.mean(dim=(2, 3)) @ weight * 4


def run(predict: Predict, samples: tuple[Sample, ...], class_names: tuple[str, ...], **options: object) -> Evaluation:
    options = {"batch_size": 64, **options}
    loader = PictureLoader(samples, eval_transform(SMALL), **options)  # type: ignore[arg-type]
    return evaluate(predict, loader, class_names=class_names, preprocessing=SMALL)


def test_real_network_reaches_its_published_accuracy(data_dir: Path) -> None:
    """SqueezeNet 1.1 on 100 ImageNet photos: 65 and 85 by torchvision's own preset (the data's README)."""
    folder = data_dir / "imagenet_sample"
    with (folder / "labels.csv").open(newline="") as file:
        samples = [Sample(folder / "images" / row["file"], int(row["index"])) for row in csv.DictReader(file)]
    model = torchvision.models.squeezenet1_1()
    weights = load_file(data_dir / "weights" / "squeezenet1_1_imagenet_fp16.safetensors")
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    loader = PictureLoader(samples, eval_transform(Preprocessing()), batch_size=25)
    names = [str(index) for index in range(1000)]
    evaluation = evaluate(network_predictor(model), loader, class_names=names, preprocessing=Preprocessing())
    assert evaluation.top1 == pytest.approx(0.65, abs=0.02)
    assert evaluation.top5 == pytest.approx(0.85, abs=0.02)


def test_batches_of_one_equal_one_batch(data: PictureData) -> None:
    predict = linear_classifier(3)
    single = run(predict, data.train, data.class_names, batch_size=1)
    for options in ({"batch_size": 64}, {"batch_size": 7, "shuffle": True}, {"batch_size": 5, "num_workers": 1}):
        other = run(predict, data.train, data.class_names, **options)
        assert other.samples == single.samples
        assert np.array_equal(other.predicted, single.predicted)
        np.testing.assert_allclose(other.losses, single.losses, rtol=1e-5)
        np.testing.assert_allclose(other.target_probabilities, single.target_probabilities, rtol=1e-5)


def made_up(targets: list[int], predicted: list[int], num_classes: int) -> Evaluation:
    return Evaluation(
        class_names=tuple("abcdefgh"[:num_classes]),
        samples=tuple(Sample(Path(f"{index}.jpg"), target) for index, target in enumerate(targets)),
        top_classes=np.array(predicted)[:, None],
        top_probabilities=np.full((len(targets), 1), 0.5),
        losses=np.full(len(targets), 0.7),
    )


def test_scores_by_hand() -> None:
    # Class a: 2 of 3 found, 1 false alarm; b: 1 of 2 found, 1 false alarm; c: not there, never said.
    evaluation = made_up([0, 0, 0, 1, 1], [0, 0, 1, 1, 0], num_classes=3)
    assert evaluation.top1 == pytest.approx(0.6)
    assert evaluation.top5 is None  # of three classes five are always right
    assert evaluation.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    a, b, c = evaluation.per_class
    assert (a.precision, a.recall, a.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3)) and a.num_pictures == 3
    assert (b.precision, b.recall, b.f1) == pytest.approx((0.5, 0.5, 0.5))
    assert (c.precision, c.recall, c.num_pictures) == (None, None, 0)
    assert evaluation.summary()["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_loss_and_probabilities_are_those_of_softmax(data: PictureData) -> None:
    predict = linear_classifier(3)
    evaluation = run(predict, data.val, data.class_names)
    transform = eval_transform(SMALL)
    batch = torch.stack([transform(read_picture(sample.path)) for sample in data.val])
    logits = predict(normalize(batch, SMALL))
    targets = torch.tensor([sample.target for sample in data.val])
    assert evaluation.loss == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)
    torch.testing.assert_close(
        torch.from_numpy(evaluation.predicted_probabilities), logits.softmax(1).max(1).values.double()
    )


def test_corrupt_picture_is_left_out_of_the_scores(data: PictureData, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").touch()
    predict = linear_classifier(3)
    clean = run(predict, data.train, data.class_names)
    spoilt = run(predict, (Sample(tmp_path / "bad.jpg", 0), *data.train), data.class_names, batch_size=1)
    assert spoilt.top1 == clean.top1 and spoilt.num_pictures == clean.num_pictures
    assert len(spoilt.unreadable) == 1 and "bad.jpg" in spoilt.unreadable[0]
    with pytest.raises(DataError, match=r"no picture could be read: .*bad\.jpg"):
        run(predict, (Sample(tmp_path / "bad.jpg", 0),), data.class_names)


def test_network_with_other_classes_or_nan_is_refused(data: PictureData) -> None:
    with pytest.raises(DataError, match=r"outputs of shape \(6, 7\) for 3 classes"):
        run(linear_classifier(7), data.val, data.class_names)
    with pytest.raises(RunError, match="not finite"):
        run(lambda batch: torch.full((len(batch), 3), torch.nan), data.val, data.class_names)


def test_predictor_uses_running_statistics_and_no_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(2, 3, 4, 4))
    predict = network_predictor(model.train())
    batch: Tensor = torch.randn(4, 3, 4, 4)
    torch.testing.assert_close(predict(batch)[:1], predict(batch[:1]))
    assert not predict(batch).requires_grad
