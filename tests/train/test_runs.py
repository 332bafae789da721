from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from effvit.data.datasets import PictureData
from effvit.errors import RunError
from effvit.train.config import TrainConfig
from effvit.train.runs import RunFolder, next_run_path


@pytest.fixture
def run(tmp_path: Path, config: TrainConfig, data: PictureData) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "first", config, data, command="effvit train photos")


def test_record_says_what_was_run(run: RunFolder, config: TrainConfig, data: PictureData) -> None:
    record = json.loads((run.path / "run.json").read_text())
    assert record["command"] == "effvit train photos"
    assert record["class_names"] == list(data.class_names)
    assert record["environment"]["versions"]["torch"] and record["environment"]["python"]
    assert record["status"] == "running" and record["ended"] is None
    run.finish("finished")
    assert run.read_record()["ended"] >= record["started"]


def test_config_and_split_come_back_as_they_were(run: RunFolder, config: TrainConfig, data: PictureData) -> None:
    opened = RunFolder.open(run.path)
    assert opened.read_config() == config
    again = opened.read_data()
    assert (again.train, again.val, again.class_names, again.split) == (
        data.train, data.val, data.class_names, data.split
    )  # fmt: skip


def test_checkpoint_round_trip(run: RunFolder) -> None:
    run.save_checkpoint({"model": {"w": torch.arange(3.0)}, "history": [{"epoch": 1}]})
    state = run.load_checkpoint()
    assert torch.equal(state["model"]["w"], torch.arange(3.0)) and state["history"] == [{"epoch": 1}]
    assert [path.name for path in run.checkpoint.parent.iterdir()] == ["last.pt"]


def test_failed_write_leaves_the_old_checkpoint(run: RunFolder) -> None:
    run.save_checkpoint({"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        run.save_checkpoint({"epoch": 2, "bad": lambda: None})
    assert run.load_checkpoint() == {"epoch": 1}
    assert [path.name for path in run.checkpoint.parent.iterdir()] == ["last.pt"]


def test_folder_that_holds_something_is_refused(run: RunFolder, config: TrainConfig, data: PictureData) -> None:
    with pytest.raises(RunError, match=r"first is not empty: .* --resume .*first"):
        RunFolder.create(run.path, config, data)


def test_empty_folder_is_taken(tmp_path: Path, config: TrainConfig, data: PictureData) -> None:
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", config, data).path == tmp_path / "empty"


def test_what_is_no_run_folder_is_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(RunError, match=r"no such run folder: .*nowhere"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"is not a run folder: it has no run\.json"):
        RunFolder.open(photos)


def test_missing_damaged_and_hostile_checkpoints_are_refused(run: RunFolder) -> None:
    with pytest.raises(RunError, match=r"cannot be continued: it has no checkpoints/last\.pt"):
        run.load_checkpoint()

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("echo owned > owned.txt",)

    run.save_checkpoint({"x": 1})
    content = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"last\.pt is damaged: [^\n]*$"):
        run.load_checkpoint()
    torch.save({"x": Hostile()}, run.checkpoint)
    with pytest.raises(RunError, match=r"last\.pt is damaged: [^\n]*$"):
        run.load_checkpoint()


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(run: RunFolder) -> None:
    run.save_checkpoint({"epoch": 1})
    kept = sorted(run.path.rglob("*"))
    (run.path / ".curves.7.partial.png").touch()
    (run.checkpoint.parent / ".last.7.partial.pt").touch()
    (run.path / ".weights.7.partial").mkdir()
    (run.path / ".weights.7.partial" / "model.safetensors").touch()
    run.remove_leftovers()
    assert sorted(run.path.rglob("*")) == kept


def test_next_run_path_is_free(tmp_path: Path) -> None:
    assert next_run_path(tmp_path, "m0").name == "m0-1"
    (tmp_path / "m0-1").mkdir()
    assert next_run_path(tmp_path, "m0").name == "m0-2"
