"""Training of detectors: settings, batches, and the loop that they share with classifiers."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_files import HEIGHT, WIDTH, coco, image, thing, write_coco
from detectors import pictures as random_pictures
from detectors import target, tiny_detector, total
from made_detections import bccd
from processes import in_processes
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from effvit.data.coco import read_coco
from effvit.data.coco_pictures import read_coco_picture
from effvit.detection.batches import DetectionLoader, draw_size, target_of
from effvit.detection.data import (
    DetectionData,
    open_detection_data,
    pictures_with_classes,
    read_detection_data,
)
from effvit.detection.detectors import Detector, create_detector
from effvit.detection.epochs import DetectionEpoch
from effvit.detection.recipes import detection_recipe
from effvit.detection.saving import load_detector
from effvit.detection.task import DETECTION, DetectionTask, detector_config, detector_loss, find_all, fit_detector
from effvit.detection.train_config import DetectionConfig
from effvit.errors import ConfigError, DataError, RunError
from effvit.train.distributed import on_main
from effvit.train.learner import MicroBatch
from effvit.train.optimizer import learning_rate_at, make_optimizer
from effvit.train.records import StepReport, best_epoch, stops_early
from effvit.train.run_config import replace_fields
from effvit.train.runs import RunFolder

POLYGON = [[10.0, 5.0, 30.0, 5.0, 30.0, 15.0, 10.0, 15.0]]
TINY = DetectionConfig(
    model="efficientvit_tiny",
    epochs=2,
    batch_size=3,
    min_size=32,
    scales=(1.0, 1.5),
    neck_channels=8,
    ema_decay=0.5,
    freeze_norm=True,
    learning_rate=1e-3,
)


def document(num_pictures: int = 8) -> dict[str, Any]:
    """One thing on each picture but the last, a crowd on the first as well."""
    crowd = thing(100, 1, iscrowd=1, bbox=[0, 0, 40, 30], segmentation={"size": [HEIGHT, WIDTH], "counts": [0, 1200]})
    things = [thing(n, n, category_id=(1, 7)[n % 2], segmentation=POLYGON) for n in range(1, num_pictures)]
    return coco([image(n) for n in range(1, num_pictures + 1)], [*things, crowd])


@pytest.fixture
def data(tmp_path: Path) -> DetectionData:
    return opened(tmp_path)


def opened(folder: Path, config: DetectionConfig = TINY) -> DetectionData:
    path = write_coco(folder / "photos", document())
    return open_detection_data(path, None, task=config.task, val_fraction=0.3, seed=0)


def detector_for(data: DetectionData, config: DetectionConfig, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return create_detector(detector_config(config, data.class_names, data.category_ids))


def run_for(path: Path, data: DetectionData, config: DetectionConfig) -> RunFolder:
    run = RunFolder.create_for(
        DETECTION, path, config, root=data.source.root, class_names=data.class_names, split=data.split_to_dict()
    )
    run.update_record(data=data.places())
    return run


def timeless(history: list[DetectionEpoch]) -> list[DetectionEpoch]:
    return [dataclasses.replace(r, seconds=0, pictures_per_second=0, waiting_share=0) for r in history]


def interrupt_at(epoch: int, step: int) -> Any:
    def on_step(report: StepReport) -> None:
        if (report.phase, report.epoch, report.step) == ("train", epoch, step):
            raise KeyboardInterrupt

    return on_step


def test_the_papers_recipe_is_the_papers() -> None:
    config = detection_recipe("coco_1x")
    facts = (config.epochs, config.batch_size, config.learning_rate, config.weight_decay, config.min_size)
    assert facts == (12, 16, 1e-4, 0.05, 800) and config.long_side == 1333
    assert config.freeze_norm and config.flip == 0.5 and config.scales == (1.0,) and not config.ema_decay
    steps = 1000  # an epoch

    def rate(step: int) -> float:
        return learning_rate_at(step, 12 * steps, config, steps_per_epoch=steps)

    assert rate(0) == pytest.approx(1e-7) and rate(500) == pytest.approx(1e-4)
    assert rate(250) == pytest.approx(1e-7 + 0.5 * (1e-4 - 1e-7))
    assert [rate(8 * steps - 1), rate(8 * steps), rate(11 * steps)] == pytest.approx([1e-4, 1e-5, 1e-6])


def test_weight_decay_is_on_all_but_the_bias_tables() -> None:
    detector, config = tiny_detector(), detection_recipe("coco_1x")
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    undecayed = {
        names[id(parameter)]
        for group in make_optimizer(detector, config).param_groups
        for parameter in group["params"]
        if group["weight_decay"] == 0
    }
    assert undecayed == {name for name in names.values() if name.endswith("attention_biases")} != set()


def test_the_long_side_follows_the_short_one() -> None:
    assert DetectionConfig(min_size=240).long_side == 400
    assert DetectionConfig(min_size=240, max_size=300).long_side == 300


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("task=faces", "task must be one of boxes, masks, got 'faces'"),
        ("scales=", "scales must be at least one number, got none"),
        ("scales=1,99", "scales must be numbers in 0.1..10"),
        ("max_size=100", "max_size must not be below min_size, got 100 and 320"),
        ("compile=true", "compile must be false"),
        ("freeze_backbone_epochs=1", "freeze_backbone_epochs must be 0"),
        ("schedule=milestones", "schedule milestones needs milestones=EPOCH,EPOCH"),
        ("milestones=3,2", "milestones must be rising numbers above 0"),
        ("label_smoothing=1", "unknown field 'label_smoothing'"),
    ],
)
def test_settings_that_are_not_allowed(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace_fields(DetectionConfig(), [assignment])


def test_every_setting_can_be_set_to_what_it_is_and_survives_json() -> None:
    for config in (DetectionConfig(), detection_recipe("coco_1x"), detection_recipe("small")):
        assert DetectionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match=r"unknown recipe of detection 'coco1x' \(did you mean 'coco_1x'\?\)"):
        detection_recipe("coco1x")


def test_a_batch_depends_on_seed_epoch_and_picture_alone(data: DetectionData) -> None:
    def seen(config: DetectionConfig, epoch: int, start: int = 0) -> dict[int, tuple[Tensor, Tensor]]:
        loader = DetectionLoader(data.train, config, training=True)
        found = {}
        for batch in loader.batches(epoch, start):
            for index, picture, aim in zip(batch.indices.tolist(), batch.images, batch.targets, strict=True):
                found[index] = (picture, aim["boxes"])
        return found

    first, again = seen(TINY, 0), seen(dataclasses.replace(TINY, batch_size=2), 0)
    assert set(first) == set(range(len(data.train)))
    for index, (picture, boxes) in first.items():
        assert torch.equal(picture, again[index][0]) and torch.equal(boxes, again[index][1])
    other = seen(TINY, 1)
    assert any(not torch.equal(first[index][0], other[index][0]) for index in first)
    for index, (picture, _) in seen(TINY, 0, start=1).items():
        assert torch.equal(picture, first[index][0])


def test_a_mirrored_picture_has_its_boxes_and_masks_mirrored(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, task="masks", color_jitter=0)
    pictures = opened(tmp_path, config).source.pictures
    as_is, mirrored = (
        next(DetectionLoader(pictures, dataclasses.replace(config, flip=flip, seed=3), training=True).batches())
        for flip in (0.0, 1.0)
    )
    for picture, aim, other, other_aim in zip(*as_is[:2], *mirrored[:2], strict=True):
        assert torch.equal(picture.flip(2), other) and torch.equal(aim["masks"].flip(2), other_aim["masks"])
        left, top, right, bottom = aim["boxes"].unbind(1)
        assert torch.equal(torch.stack([WIDTH - right, top, WIDTH - left, bottom], 1), other_aim["boxes"])


def test_crowds_are_not_learned_and_empty_pictures_are(data: DetectionData) -> None:
    first, last = data.source.pictures[0], data.source.pictures[-1]
    assert [entry.is_crowd for entry in first.things] == [False, True] and not last.things
    assert target_of(first, with_masks=True)["masks"].shape == (1, HEIGHT, WIDTH)
    assert target_of(last, with_masks=True)["boxes"].shape == (0, 4)


def test_sizes_are_drawn_by_the_seed_alone_from_all_scales() -> None:
    config = dataclasses.replace(TINY, min_size=100, scales=(0.5, 1.0, 2.0))
    torch.manual_seed(1)
    first = [draw_size(config, seed) for seed in range(30)]
    torch.manual_seed(2)
    assert [draw_size(config, seed) for seed in range(30)] == first
    assert set(first) == {50, 100, 200}


def test_micro_batches_add_up_to_the_batch() -> None:
    detector = tiny_detector().double().eval()
    detector.train()
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    images = random_pictures((96, 120), (64, 96), (100, 80), seed=2)
    aims = [
        (target(images[0], ([10, 10, 60, 50], 1)), 96),
        (target(images[1]), 64),
        (target(images[2], ([5, 5, 40, 70], 0)), 96),
    ]
    whole = detector_loss(detector, MicroBatch(images, aims))
    parts = [detector_loss(detector, MicroBatch([one], [aim])) for one, aim in zip(images, aims, strict=True)]
    # Pictures of a batch are padded to one size, and what is padded reaches the edge of the smaller: hence not 1e-12.
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item(), rel=0.05)
    same = [detector_loss(detector, MicroBatch([images[0]], [aims[0]])) for _ in range(2)]
    both = detector_loss(detector, MicroBatch([images[0]] * 2, [aims[0]] * 2))
    assert torch.stack(same).sum().item() == pytest.approx(both.item(), rel=1e-9)


@pytest.mark.parametrize("task", ["boxes", "masks"])
def test_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(task: str, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, task=task, accumulation=2)
    data = opened(tmp_path, config)
    whole = detector_for(data, config)
    history = fit_detector(whole, data, config, run_for(tmp_path / "whole", data, config))
    run = run_for(tmp_path / "cut", data, config)
    with pytest.raises(KeyboardInterrupt):
        fit_detector(detector_for(data, config), data, config, run, on_step=interrupt_at(2, 1))
    resumed = detector_for(data, config, seed=5)
    reread = read_detection_data(RunFolder.open(tmp_path / "cut"))
    assert reread.train == data.train and reread.val == data.val
    again = fit_detector(resumed, reread, config, RunFolder.open(tmp_path / "cut"), resume=True)
    assert timeless(again) == timeless(history) and len(history) == 2
    for (name, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    saved = load_detector(run.path)
    assert saved.config.class_names == ("cat", "dog") and saved.config.ids == (1, 7) and saved.config.task == task
    assert {"weights-last", "curves.png", "metrics.jsonl", "split.json"} <= {p.name for p in run.path.iterdir()}


def test_what_is_saved_is_the_average_where_it_validated_better(data: DetectionData, tmp_path: Path) -> None:
    detector = detector_for(data, TINY)
    task = DetectionTask(detector, data, TINY, provenance={})
    record = DetectionEpoch(
        epoch=1, learning_rate=1, train_loss=1, num_unreadable=0, pictures_per_second=1, seconds=1,
        val_ap=0.1, val_ap50=0.2, val_box_ap=0.1, val_ap_ema=0.3, val_ap50_ema=0.4, val_box_ap_ema=0.3,
    )  # fmt: skip
    assert record.ema_is_better and record.best_score == (0.3, 0.4, -1)
    other = detector_for(data, TINY, seed=1)
    task.save(tmp_path / "average", other, record)
    written = json.loads((tmp_path / "average" / "config.json").read_text())["provenance"]
    assert written["moving_average"] and written["val_ap"] == 0.3
    with pytest.raises(ConfigError, match="weights of a Linear are no detector's"):
        task.save(tmp_path / "none", nn.Linear(1, 1), record)


def test_nothing_to_learn_or_to_validate_on_is_one_line(data: DetectionData) -> None:
    empty = tuple(picture._replace(things=()) for picture in data.val)
    for part, changes in (("training", {"train": empty}), ("validation", {"val": empty})):
        task = DetectionTask(tiny_detector(), dataclasses.replace(data, **changes), TINY, provenance={})
        with pytest.raises(DataError, match=f"nothing on the {part} pictures: none of {len(empty)} has a thing"):
            task.begin(torch.device("cpu"))
    task = DetectionTask(tiny_detector(), data, dataclasses.replace(TINY, accumulation=4), provenance={})
    with pytest.raises(ConfigError, match=r"batch_size must be at least 1 for each .* so 4, got 3"):
        task.begin(torch.device("cpu"))
    alone = dataclasses.replace(TINY, freeze_norm=False, batch_size=1)
    with pytest.raises(ConfigError, match=r"batch_size must be at least 2 \(1 with freeze_norm=true\).* so 2, got 1"):
        DetectionTask(tiny_detector(), data, alone, provenance={}).begin(torch.device("cpu"))


def test_batch_statistics_are_never_of_one_picture(data: DetectionData) -> None:
    batch = next(DetectionLoader(data.train, TINY, training=True).batches())
    assert len(batch.images) == 3
    for freeze_norm, sizes in ((True, [1, 1, 1]), (False, [3])):
        config = dataclasses.replace(TINY, freeze_norm=freeze_norm, accumulation=3)
        parts = DetectionTask(tiny_detector(), data, config, provenance={}).micro_batches(batch, seed=0)
        assert [len(part.targets) for part in parts] == sizes


def test_until_something_is_found_the_lower_loss_is_better() -> None:
    def epoch(number: int, loss: float, ap: float) -> DetectionEpoch:
        return DetectionEpoch(
            epoch=number, learning_rate=1, train_loss=loss, num_unreadable=0, pictures_per_second=1, seconds=1,
            val_ap=ap, val_ap50=ap, val_box_ap=ap, val_ap_ema=ap, val_ap50_ema=ap, val_box_ap_ema=ap,
        )  # fmt: skip

    history = [epoch(1, 3.0, 0.0), epoch(2, 2.0, 0.0), epoch(3, 1.0, 0.0)]
    assert best_epoch(history).epoch == 3 and not stops_early(history, 2) and not history[0].ema_is_better
    history += [epoch(4, 1.5, 0.1), epoch(5, 0.5, 0.05), epoch(6, 0.4, 0.05)]
    assert best_epoch(history).epoch == 4 and stops_early(history, 2)


def test_validation_gives_the_scores_of_an_evaluation_one_by_one(tmp_path: Path) -> None:
    """Pictures of other sizes in a batch would pad each other, and what is padded is seen."""
    sizes = [{"width": 60 - 5 * n, "height": 30 + 6 * n} for n in range(6)]
    document = coco([image(n, **sizes[n]) for n in range(6)], [thing(n, n) for n in range(1, 6)])
    path = write_coco(tmp_path / "photos", document)
    config = dataclasses.replace(TINY, batch_size=4, min_size=64)
    data = open_detection_data(path, None, task="boxes", val_fraction=0.9, seed=0)
    detector = tiny_detector(min_size=64)
    task = DetectionTask(detector, data, config, provenance={})
    alone = {picture.image_id: detector.detect([pil_to_tensor(read_coco_picture(picture))])[0] for picture in data.val}
    found, _ = find_all({"trained": detector}, task._val_loader, 0.0)
    for image_id, expected in alone.items():
        assert torch.equal(found["trained"][image_id].boxes, expected.boxes)
        assert torch.equal(found["trained"][image_id].scores, expected.scores)


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """Masks, with pictures with nothing on them, parts of different lengths and a picture that cannot be read."""
    config = dataclasses.replace(
        TINY, task="masks", batch_size=6, accumulation=2, scales=(1.0,), learning_rate=1e-5, max_unreadable=0.5
    )
    data = opened(tmp_path, config)
    data.val[0].path.write_bytes(b"no picture")

    def work(name: str) -> None:
        run = on_main(lambda: run_for(tmp_path / name, data, config))
        fit_detector(detector_for(data, config), data, config, run)

    work("one")
    in_processes(2, lambda: work("two"))
    one, two = (RunFolder(tmp_path / name).load_checkpoint() for name in ("one", "two"))
    for first, second in zip(one["history"], two["history"], strict=True):
        assert (first["num_unreadable"], second["num_unreadable"]) == (1, 1)
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=0.05)  # proposals are drawn elsewhere
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=0, atol=1e-3)
    assert len((tmp_path / "two" / "unreadable.txt").read_text().splitlines()) == 1


def test_files_that_are_gone_are_not_blamed_on_the_run(data: DetectionData, tmp_path: Path) -> None:
    run = run_for(tmp_path / "run", data, TINY)
    data.source.source.rename(tmp_path / "elsewhere.json")
    with pytest.raises(DataError, match=r"^no such COCO file: .*instances\.json"):
        read_detection_data(run)


def test_unreadable_pictures_are_counted_and_left_out(data: DetectionData, tmp_path: Path) -> None:
    data.val[0].path.write_bytes(b"no picture")
    config = dataclasses.replace(TINY, epochs=1)
    run = run_for(tmp_path / "run", data, config)
    (record,) = fit_detector(detector_for(data, config), data, config, run)
    assert record.num_unreadable == 1
    assert data.val[0].path.name in (run.path / "unreadable.txt").read_text()


def test_runs_of_classifiers_and_detectors_are_told_apart(data: DetectionData, tmp_path: Path) -> None:
    run = run_for(tmp_path / "run", data, TINY)
    with pytest.raises(RunError, match="is a run of detection, not of classification: use effvit detect train"):
        run.read_config()
    run.update_record(task="classification")
    with pytest.raises(RunError, match="is a run of classification, not of detection: use effvit train"):
        read_detection_data(run)


def test_a_file_to_validate_on_has_the_same_classes(data: DetectionData, tmp_path: Path) -> None:
    def opened_with(name: str) -> DetectionData:
        other = write_coco(tmp_path / "other", coco(categories=({"id": 1, "name": name}, {"id": 9, "name": "cat"})))
        return open_detection_data(
            data.source.source, None, val=other, val_images=tmp_path / "other", task="boxes", val_fraction=0.2, seed=0
        )

    by_name = opened_with("dog")  # cat and dog have other ids there
    assert {thing.label for picture in by_name.val for thing in picture.things} == {by_name.class_names.index("dog")}
    with pytest.raises(DataError, match="has things of classes that are not known: cow; known: cat, dog"):
        opened_with("cow")


def test_labels_follow_the_names_of_the_classes(data: DetectionData) -> None:
    (first, *_), (other, *_) = data.source.pictures, pictures_with_classes(data.source, ("dog", "ox", "cat"))
    names = data.source.class_names
    assert [("dog", "ox", "cat")[t.label] for t in other.things] == [names[t.label] for t in first.things]
    with pytest.raises(DataError, match="has things of classes that are not known: dog; known: cat"):
        pictures_with_classes(data.source, ("cat",))
    only_cats = dataclasses.replace(data.source, pictures=data.source.pictures[1:2])
    (picture,) = pictures_with_classes(only_cats, ("ox", names[only_cats.pictures[0].things[0].label]))
    assert [entry.label for entry in picture.things] == [1]  # a class that is listed, and occurs nowhere, does no harm


def test_the_loss_falls_on_real_photos(data_dir: Path) -> None:
    pictures = bccd(data_dir, "train").pictures[:2]
    config = dataclasses.replace(TINY, min_size=96, neck_channels=16, flip=0, color_jitter=0, scales=(1.0,))
    torch.manual_seed(0)
    detector = create_detector(detector_config(config, ("RBC", "WBC", "Platelets"), (1, 2, 3)))
    batch = next(DetectionLoader(pictures, config, training=True, batch_size=2).batches())
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = total(detector(batch.images, batch.targets))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


class _GoalError(Exception):
    """The goal is reached, and the rest of the epochs can be spared."""


@pytest.mark.slow
@pytest.mark.parametrize(("task", "wanted"), [("boxes", 0.9), ("masks", 0.7)])
def test_a_detector_learns_eight_pictures_by_heart(data_dir: Path, task: str, wanted: float, tmp_path: Path) -> None:
    """M0 at 320 pixels: what a detector cannot learn by heart it cannot learn. 10 to 20 minutes of one core.

    Pictures in landscape format with few and not too small things, so that a few hundred steps are enough.
    """
    train = data_dir / "coco_mini" / "train"
    source = read_coco(data_dir / "coco_mini" / "annotations" / "instances_train.json", train)
    few = [
        picture
        for picture in source.pictures
        if picture.width > picture.height
        and 1 <= len(picture.things) <= 4
        and all(not thing.is_crowd and thing.area > 70**2 for thing in picture.things)
    ][:8]
    assert len(few) == 8
    # Each four times an epoch: validating is half of the work otherwise.
    data = DetectionData(source=source, val_source=None, train=tuple(few) * 4, val=tuple(few))
    config = DetectionConfig(
        task=task,
        epochs=80,
        batch_size=4,
        min_size=320,
        scales=(1.0,),
        flip=0.0,
        color_jitter=0.0,
        weight_decay=0.0,
        neck_channels=64,
        ema_decay=0.9,
    )
    reached: list[float] = []

    def on_epoch(record: DetectionEpoch) -> None:
        reached.append(record.best_score[0])
        if reached[-1] > wanted:
            raise _GoalError

    with suppress(_GoalError):
        fit_detector(
            detector_for(data, config), data, config, run_for(tmp_path / "run", data, config), on_epoch=on_epoch
        )
    assert max(reached) > wanted
