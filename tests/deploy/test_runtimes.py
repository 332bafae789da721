"""Any exported file is opened by its name, and runs on batches of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effvit.deploy.export import Exported
from effvit.deploy.formats.base import ExportedModel
from effvit.deploy.formats.onnx import OnnxModel
from effvit.deploy.formats.table import FORMATS
from effvit.deploy.runtimes import any_batch, is_exported, open_file
from effvit.errors import ConfigError, WeightsError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.onnx", True),
        ("a.b.openvino", True),
        ("a.pt2", True),
        ("a.aoti.pt2", True),
        ("a.openvino/model.xml", True),
        ("a.ncnn/model.param", True),
        ("model.xml", False),
        ("run", False),
        ("a.pth", False),
        ("a.onnx/b", False),
        ("onnx", False),
    ],
)
def test_the_name_tells(name: str, expected: bool) -> None:
    assert is_exported(name) is expected
    assert is_exported(Path("some") / "folder" / name) is expected


def test_the_longest_suffix_wins(tmp_path: Path) -> None:
    (tmp_path / "a.aoti.pt2").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"a\.aoti\.pt2 is not a \.pt2 archive"):
        open_file(tmp_path / "a.aoti.pt2")


def test_a_file_is_opened_in_its_runtime(exported: tuple[Exported, str]) -> None:
    path = exported[0].path
    assert isinstance(open_file(str(path), num_threads=1), OnnxModel)
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        open_file(path, num_threads=0)


@pytest.mark.parametrize("name", ["a.engine", "model", "a.xml", "a.tflite"])
def test_another_name_is_refused_with_those_that_are_known(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        WeightsError, match=rf"^{name} is not the name of an exported file; known: \.onnx \(onnx\)"
    ) as e:
        open_file(tmp_path / name)
    assert all(row.suffix in str(e.value) for row in FORMATS.values()) and "\n" not in str(e.value)


@pytest.mark.parametrize("name", [f"missing{FORMATS[key].suffix}" for key in ("onnx", "torch-export", "aot-inductor")])
def test_a_missing_file_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"no such file: .*{name}$"):
        open_file(tmp_path / name)


class _InFours(ExportedModel):
    """Doubles four numbers at a time, and keeps what it was given."""

    input_shape = (4, 1, 1, 1)

    def __init__(self) -> None:
        self.path = Path("a.fake")
        self.calls: list[list[float]] = []

    def run(self, array: np.ndarray) -> np.ndarray:
        self.calls.append(array.ravel().tolist())
        return array.reshape(4, 1) * 2


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_batches_of_any_size_run_in_a_fixed_one(count: int) -> None:
    model = _InFours()
    numbers = torch.arange(1.0, count + 1)
    answer = any_batch(model)(numbers.view(-1, 1, 1, 1))
    assert torch.equal(answer, 2 * numbers[:, None])
    assert all(len(call) == 4 for call in model.calls) and len(model.calls) == -(-count // 4)
    padding = [value for call in model.calls for value in call][count:]
    assert padding == [float(count)] * len(padding)


def test_a_wrong_size_is_still_refused_and_a_free_batch_left_alone(exported: tuple[Exported, str]) -> None:
    with pytest.raises(ConfigError, match=r"a\.fake takes pictures of shape \(4, 1, 1, 1\), got \(4, 1, 1, 2\)"):
        any_batch(_InFours())(torch.zeros(6, 1, 1, 2))
    model = open_file(exported[0].path)
    assert any_batch(model) is model
