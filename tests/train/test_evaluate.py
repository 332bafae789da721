from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor, nn

from effvit.data.datasets import PictureData
from effvit.data.loaders import PictureLoader, Unreadable
from effvit.data.order import Order
from effvit.data.pictures import read_picture
from effvit.data.samples import Sample
from effvit.data.transforms import eval_transform, normalize
from effvit.errors import DataError, RunError
from effvit.preprocessing import Preprocessing
from effvit.train.evaluate import Predict, evaluate, evaluate_all, network_predictor
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


def test_batches_of_one_equal_one_batch(data: PictureData) -> None:
    predict = linear_classifier(3)
    single = run(predict, data.train, data.class_names, batch_size=1)
    for options in ({"batch_size": 64}, {"batch_size": 7, "order": Order.SHUFFLE}, {"batch_size": 5, "num_workers": 1}):
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
    assert evaluation.average().f1 == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert evaluation.average(weighted=True).f1 == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)
    assert evaluation.average(weighted=True).recall == pytest.approx(evaluation.top1)
    assert [tuple(pair) for pair in evaluation.most_confused()] == [("b", "a", 1, 0.5), ("a", "b", 1, 1 / 3)]
    assert evaluation.most_confused(1)[0].true == "b"


def test_class_that_is_never_said_lowers_the_mean_precision() -> None:
    evaluation = made_up([0, 0, 1], [0, 0, 0], num_classes=2)
    assert evaluation.per_class[1].precision is None  # of no pictures, no share
    assert evaluation.average().precision == pytest.approx((2 / 3 + 0) / 2)


def test_averages_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    targets = [*range(6), *generator.integers(6, size=60).tolist()]
    predicted = generator.integers(6, size=66).tolist()
    evaluation = made_up(targets, predicted, num_classes=6)
    for kind in ("macro", "weighted"):
        expected = precision_recall_fscore_support(targets, predicted, average=kind, zero_division=0)[:3]
        assert tuple(evaluation.average(weighted=kind == "weighted")) == pytest.approx(expected)


def test_worst_and_least_sure_are_ordered() -> None:
    evaluation = replace(
        made_up([0, 1, 0, 1], [0, 0, 1, 1], num_classes=2),
        top_probabilities=np.array([[0.5], [0.7], [0.9], [0.6]]),
    )
    assert evaluation.surest_mistakes().tolist() == [2, 1] and evaluation.surest_mistakes(1).tolist() == [2]
    assert evaluation.least_sure(3).tolist() == [0, 3, 1]


def test_several_networks_in_one_pass_are_as_each_alone(data: PictureData) -> None:
    predictors = {"plain": linear_classifier(3), "turned": lambda batch: -linear_classifier(3)(batch)}
    loader = PictureLoader(data.val, eval_transform(SMALL), batch_size=4)
    together = evaluate_all(predictors, loader, class_names=data.class_names, preprocessing=SMALL, keep_logits=True)
    assert list(together) == ["plain", "turned"]
    for name, predict in predictors.items():
        alone = run(predict, data.val, data.class_names, batch_size=4)
        assert alone.logits is None
        assert np.array_equal(together[name].top_classes, alone.top_classes)
        assert np.array_equal(together[name].losses, alone.losses)
    plain, turned = (together[name].logits for name in predictors)
    assert plain is not None and turned is not None and np.array_equal(plain, -turned)
    assert np.array_equal(plain.argmax(axis=1), together["plain"].predicted)


def test_parts_of_several_processes_are_put_together_each_picture_once(
    data: PictureData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of which the second comes first and repeats a picture, as samplers that pad do."""
    whole = run(linear_classifier(3), data.val, data.class_names, batch_size=2)

    def gather_from_two(values: list[object]) -> list[object]:
        return [*values[2:], *values[:3]] if values and not isinstance(values[0], Unreadable) else values

    monkeypatch.setattr("effvit.train.evaluate.gather", gather_from_two)
    gathered = run(linear_classifier(3), data.val, data.class_names, batch_size=2)
    assert gathered.samples == whole.samples and np.array_equal(gathered.losses, whole.losses)


def test_unreadable_pictures_of_all_processes_are_counted_together(
    data: PictureData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two processes has one unreadable picture, which it may; two together are too many."""
    samples = (Sample(tmp_path / "bad.jpg", 0), *data.val)

    def gather_from_two(values: list[object]) -> list[object]:
        elsewhere = Unreadable(len(samples) - 1, "worse.jpg: cut off")
        return [*values, elsewhere] if values and isinstance(values[0], Unreadable) else values

    assert len(run(linear_classifier(3), samples, data.class_names).unreadable) == 1
    monkeypatch.setattr("effvit.train.evaluate.gather", gather_from_two)
    with pytest.raises(DataError, match=r"at least 2 of 7 pictures cannot be read .*bad\.jpg.*; worse\.jpg: cut off"):
        run(linear_classifier(3), samples, data.class_names)


def test_of_equal_outputs_the_first_class_is_taken(data: PictureData) -> None:
    evaluation = run(lambda batch: torch.zeros(len(batch), 3), data.val, data.class_names)
    assert (evaluation.predicted == 0).all() and (evaluation.top_classes == [0, 1, 2]).all()


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
    bad = (Sample(tmp_path / "bad.jpg", 0), Sample(tmp_path / "worse.jpg", 0))
    with pytest.raises(DataError, match=r"at least 2 of \d+ pictures cannot be read"):
        run(predict, (*bad, *data.train), data.class_names)
    loader = PictureLoader((*bad, *data.train), eval_transform(SMALL), batch_size=64)
    tolerant = evaluate(predict, loader, class_names=data.class_names, preprocessing=SMALL, max_unreadable=0.5)
    assert tolerant.top1 == clean.top1 and len(tolerant.unreadable) == 2
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


def _evaluate_part(rank: int, samples: tuple[Sample, ...], class_names: tuple[str, ...], folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loader = PictureLoader(samples, eval_transform(SMALL), batch_size=4, rank=rank, num_processes=2)
    evaluation = evaluate(
        linear_classifier(3), loader, class_names=class_names, preprocessing=SMALL, max_unreadable=0.5, keep_logits=True
    )
    torch.save((evaluation.names, evaluation.losses.tolist(), evaluation.unreadable), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_evaluate_each_picture_once_and_know_the_same(data: PictureData, tmp_path: Path) -> None:
    """An odd number of pictures, one of them unreadable, so that the two have not the same work."""
    samples = (*data.val, Sample(tmp_path / "bad.jpg", 0), *data.train[:4])
    arguments = (samples, data.class_names, tmp_path)
    torch.multiprocessing.spawn(_evaluate_part, arguments, nprocs=2)
    loader = PictureLoader(samples, eval_transform(SMALL), batch_size=4)
    alone = evaluate(
        linear_classifier(3), loader, class_names=data.class_names, preprocessing=SMALL, max_unreadable=0.5
    )
    for rank in range(2):
        names, losses, unreadable = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert names == alone.names and unreadable == alone.unreadable and len(unreadable) == 1
        np.testing.assert_allclose(losses, alone.losses, rtol=1e-6)
