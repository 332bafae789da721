from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from effvit.errors import ConfigError
from effvit.train.records import EpochRecord
from effvit.train.tensorboard import Writer

RECORD = EpochRecord(
    epoch=3, learning_rate=0.1, train_loss=2.0, val_loss=1.5, val_top1=0.25, num_unreadable=0,
    pictures_per_second=10, seconds=1, val_loss_ema=1.25, val_top1_ema=0.5,
)  # fmt: skip


class FakeSummaryWriter:
    """What torch's writer offers, keeping the points in memory."""

    last: FakeSummaryWriter

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.points: dict[str, tuple[float, int]] = {}
        self.state = "open"
        FakeSummaryWriter.last = self

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.points[name] = (value, step)

    def flush(self) -> None:
        self.state = "flushed"

    def close(self) -> None:
        self.state = "closed"


def test_every_curve_gets_its_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeSummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with Writer(tmp_path, epochs_done=2) as writer:
        writer.write(RECORD)
        fake = FakeSummaryWriter.last
        assert fake.state == "flushed"  # an epoch that is done is seen, whatever becomes of the run
    assert fake.state == "closed" and fake.purge_step == 3
    assert fake.points["top1/val"] == (0.25, 3) and fake.points["top1/val_ema"] == (0.5, 3)
    assert {step for _, step in fake.points.values()} == {3}


def test_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'effvit\[tensorboard\]'"):
        Writer(tmp_path)


def test_event_file_can_be_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Writer(tmp_path) as writer:
        writer.write(RECORD)
    events = EventAccumulator(str(tmp_path)).Reload()
    (point,) = events.Scalars("top1/val")
    assert (point.step, point.value) == (3, 0.25)
