"""Training of detectors: the task that the loop of `train/loop.py` is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effvit.data.coco_records import CocoPicture
from effvit.data.loaders import Unreadable, UnreadableCount
from effvit.data.views import dead_workers_in_one_line
from effvit.detection.batches import DetectionBatch, DetectionLoader, draw_size
from effvit.detection.config import DetectorConfig
from effvit.detection.data import DetectionData
from effvit.detection.detectors import Detector
from effvit.detection.epochs import DetectionEpoch, write_history
from effvit.detection.evaluate import evaluate_detections
from effvit.detection.extras import import_extra
from effvit.detection.finders import Finder
from effvit.detection.kept import KeptDetections, Packed, pack
from effvit.detection.saving import save_detector
from effvit.detection.scores import DetectionScores
from effvit.detection.train_config import DetectionConfig
from effvit.errors import ConfigError, DataError, RunError
from effvit.train.distributed import gather, num_processes, on_main
from effvit.train.evaluate import all_reasons
from effvit.train.learner import MicroBatch, StepLoss
from effvit.train.loop import fit_task
from effvit.train.parts import check_parts, fewest_pictures
from effvit.train.records import StepReport
from effvit.train.runs import RunFolder

DETECTION = "detection"


def detector_config(config: DetectionConfig, class_names: Sequence[str], category_ids: Sequence[int]) -> DetectorConfig:
    """The detector that a run trains."""
    return DetectorConfig(
        backbone=config.model,
        task=config.task,
        class_names=tuple(class_names),
        category_ids=tuple(category_ids),
        min_size=config.min_size,
        max_size=config.long_side,
        mean=config.mean,
        std=config.std,
        neck_channels=config.neck_channels,
    )


def fit_detector(
    detector: Detector,
    data: DetectionData,
    config: DetectionConfig,
    run: RunFolder,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[DetectionEpoch], None] | None = None,
    resume: bool = False,
) -> list[DetectionEpoch]:
    """Train a detector and keep the weights that validated best, and the last; see `fit_task`.

    Args:
        detector: Trained in place.
        data: The pictures.
        config: How.
        run: Where to write.
        on_step: Called after every training step and validation batch.
        on_epoch: Called after every epoch, when it is on the disk.
        resume: Whether to go on with what `run` holds.

    Returns:
        One record an epoch, those before a resumption included.

    Raises:
        ConfigError: If the device or an optional package is not there, or a resumed run has another configuration.
        DataError: If there is nothing to learn or to validate on, or too many pictures cannot be read.
        RunError: If the loss is not finite, or the run folder cannot be written or continued.
    """
    task = DetectionTask(detector, data, config, provenance={"data": data.source.source.name, **_origin(run)})
    history: list[DetectionEpoch] = fit_task(detector, task, run, on_step=on_step, on_epoch=on_epoch, resume=resume)
    return history


class DetectionTask:
    """Learning boxes, or boxes and masks; a `Task`.

    Args:
        detector: What is trained; another network that is saved is its moving average.
        data: The pictures.
        config: How.
        provenance: What is written beside weights, plain values.
    """

    epoch_type = DetectionEpoch

    def __init__(
        self, detector: Detector, data: DetectionData, config: DetectionConfig, *, provenance: Mapping[str, Any]
    ) -> None:
        self.config = config
        self.train_loader = DetectionLoader(data.train, config, training=True)
        # One picture at once in each process: others in its batch would pad it, and its detections would not be those
        # of `detect eval` any more; and the masks of 16 photos are gigabytes.
        self._val_loader = DetectionLoader(data.val, config, training=False, batch_size=num_processes())
        self._detector = detector
        self._data = data
        self._provenance = dict(provenance)
        self._device = torch.device("cpu")

    def begin(self, device: torch.device) -> StepLoss:
        """Refuse what could not be trained or validated.

        Raises:
            ConfigError: If the batch is too small for the processes, or an optional package is missing.
            DataError: If there is nothing to learn, or nothing to validate on.
        """
        import_extra("faster_coco_eval", "the validation of detectors")
        for part, pictures in (("training", self._data.train), ("validation", self._data.val)):
            if not any(not thing.is_crowd for picture in pictures for thing in picture.things):
                raise DataError(f"there is nothing on the {part} pictures: none of {len(pictures)} has a thing")
        check_parts(self.config, self.train_loader)
        self._device = device
        return detector_loss

    def micro_batches(self, batch: DetectionBatch, seed: int) -> list[MicroBatch]:
        """On the device, in parts; each target with the short side that its picture is brought to."""
        images = [image.to(self._device, non_blocking=True) for image in batch.images]
        size = draw_size(self.config, seed)
        targets = [
            ({name: value.to(self._device, non_blocking=True) for name, value in target.items()}, size)
            for target in batch.targets
        ]
        num_parts = max(min(self.config.accumulation, len(images) // fewest_pictures(self.config)), 1)
        cuts = [round(part * len(images) / num_parts) for part in range(num_parts + 1)]
        return [MicroBatch(images[start:end], targets[start:end]) for start, end in itertools.pairwise(cuts)]

    def validate(
        self, networks: Mapping[str, nn.Module], on_batch: Callable[[int, int], None]
    ) -> tuple[dict[str, Any], Sequence[str]]:
        """COCO's scores of each network, in one pass over the pictures."""
        finders: dict[str, Any] = dict(networks)
        found, unreadable = find_all(finders, self._val_loader, self.config.max_unreadable, on_batch)
        return on_main(lambda: self._scores(found)), unreadable

    def _scores(self, found: Mapping[str, KeptDetections]) -> dict[str, float]:
        """The fields of an epoch that say how good each network is; 0 where nothing could be scored."""
        readable = [picture for picture in self._data.val if picture.image_id in found["trained"]]
        fields: dict[str, float] = {}
        for name, detections in found.items():
            scores = scores_of(detections, readable, self._detector.config)
            suffix = "_ema" if name == "average" else ""
            fields[f"val_ap{suffix}"] = scores.main.numbers.ap or 0.0
            fields[f"val_ap50{suffix}"] = scores.main.numbers.ap50 or 0.0
            fields[f"val_box_ap{suffix}"] = scores.boxes.numbers.ap or 0.0
        return fields

    def save(self, folder: Path, network: nn.Module, record: DetectionEpoch) -> None:
        """A detector's folder, with where its weights came from."""
        if not isinstance(network, Detector):
            raise ConfigError(f"weights of a {type(network).__name__} are no detector's")
        is_average = network is not self._detector
        provenance = {
            **self._provenance,
            "source": "effvit detect train",
            "epoch": record.epoch,
            "moving_average": is_average,
            "val_ap": record.val_ap_ema if is_average else record.val_ap,
            "config": self.config.to_dict(),
        }
        save_detector(folder, network, provenance)

    def draw(self, path: Path, history: Sequence[DetectionEpoch]) -> None:
        """Loss, AP and learning rate."""
        write_history(path, history)


def detector_loss(network: nn.Module, batch: MicroBatch) -> Tensor:
    """The sum over the pictures of all of a detector's losses, which it gives as means over the pictures."""
    targets = [target for target, _ in batch.targets]
    losses: dict[str, Tensor] = network(batch.images, targets, sizes=[size for _, size in batch.targets])
    return torch.stack(list(losses.values())).sum() * len(batch.images)


@dead_workers_in_one_line()
def find_all(
    finders: Mapping[str, Finder],
    loader: DetectionLoader,
    max_unreadable: float,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, KeptDetections], tuple[str, ...]]:
    """Run detectors over pictures, each read once; where several processes train, each has its part, all get all.

    Args:
        finders: The detectors by name.
        loader: The pictures, not varied.
        max_unreadable: Share of the pictures that may be unreadable, 0..1; they are left out.
        on_batch: Called after each batch with the number of batches done and in all.

    Returns:
        For each detector what it found, by image id, and why pictures could not be read.

    Raises:
        DataError: If too many pictures cannot be read, or none can.
        RunError: If a score or box is not finite.
    """
    unreadable, lost = UnreadableCount(len(loader.samples), max_unreadable), list[Unreadable]()
    parts: dict[str, list[tuple[int, Packed]]] = {name: [] for name in finders}
    for done, batch in enumerate(loader.batches(), start=1):
        unreadable.add(batch.unreadable)
        lost.extend(batch.unreadable)
        ids = [loader.samples[position].image_id for position in batch.indices.tolist()]
        for name, finder in finders.items():
            for image_id, detections in zip(ids, finder.detect(batch.images), strict=True):
                if not (detections.scores.isfinite().all() and detections.boxes.isfinite().all()):
                    raise RunError(f"the detector gives boxes or scores that are not finite for picture {image_id}")
                parts[name].append((image_id, pack(detections)))
        on_batch(done, len(loader))
    reasons = all_reasons(lost, len(loader.samples), max_unreadable)
    found = {}
    for name, entries in parts.items():
        found[name] = KeptDetections()
        for image_id, packed in gather(entries):
            found[name].add(image_id, packed)
        if not len(found[name]):
            raise DataError(f"no picture could be read: {'; '.join(reasons[:3])}")
    return found, reasons


def scores_of(found: KeptDetections, pictures: Sequence[CocoPicture], config: DetectorConfig) -> DetectionScores:
    """COCO's scores of what a detector found on pictures that are labelled as it numbers its classes."""
    return evaluate_detections(
        found, pictures, class_names=config.class_names, category_ids=config.ids, task=config.task
    )


def _origin(run: RunFolder) -> dict[str, Any]:
    return {"initial_weights": run.read_record().get("initial_weights")}
