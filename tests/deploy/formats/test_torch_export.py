"""torch-export: read by torch alone, and never a way for code to get in."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from effvit.deploy.formats.archive import describe_archive
from effvit.deploy.formats.torch_export import TorchExportModel
from effvit.deploy.metadata import FileMetadata
from effvit.errors import WeightsError


@pytest.fixture
def path(export_once) -> Path:
    return export_once("torch-export")[0].path


def test_torch_alone_reads_it(path: Path) -> None:
    """The description is a record of its own, which torch passes over."""
    extra = {"effvit.json": ""}
    program = torch.export.load(path, extra_files=extra)
    images = torch.randn(2, 3, 160, 272)
    with torch.inference_mode():
        assert torch.equal(program.module()(images), TorchExportModel(path)(images))
    assert "Käse" in extra["effvit.json"] and "米" in extra["effvit.json"]


class _Code:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_pickled_code_is_refused(path: Path, tmp_path: Path) -> None:
    """The same file with every tensor said to be pickled, and code where they were."""
    trace, bad = tmp_path / "trace", tmp_path / "bad.pt2"
    payload = tmp_path / "payload.pt"
    torch.save(_Code(trace), payload, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    num_pickled = 0
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bad, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
                num_pickled += content.count(b'"use_pickle": true')
            elif "/data/weights/" in name or "/data/constants/" in name:
                content = payload.read_bytes()
            target.writestr(name, content)
    assert num_pickled > 10
    with pytest.raises(WeightsError, match=r"bad\.pt2 is not a program of torch\.export: ") as caught:
        TorchExportModel(bad)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    torch.load(payload, weights_only=False)
    assert trace.exists(), "the code would have run"


def _with_model(source: Path, target: Path, change: Callable[[str], str]) -> Path:
    """The same file with another description of the graph."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            if "/models/" in name:
                changed = change(content.decode())
                assert changed != content.decode()
                content = changed.encode()
            new.writestr(name, content)
    return target


@pytest.mark.parametrize(
    "template",
    [
        "{code}",
        "Max(Integer(1), {text})",
        "Symbol({text}, positive=True)",
        "Integer(1, **{code})",
        "Symbol('s', x={code})",
    ],
)
def test_code_for_the_size_of_a_tensor_is_refused(path: Path, tmp_path: Path, template: str) -> None:
    """sympy would evaluate it, and texts inside it again."""
    trace = tmp_path / "trace"
    code = f"__import__('pathlib').Path({str(trace)!r}).touch() or 1"
    text = json.dumps(template.format(code=code, text=repr(code)))
    bad = _with_model(
        path, tmp_path / "bad.pt2", lambda model: re.sub(r'(?<="expr_str": )"[^"]*"', lambda _: text, model)
    )
    with pytest.raises(WeightsError, match=r"^\S+bad\.pt2 holds code where the size of a tensor should be: .+$"):
        TorchExportModel(bad)
    assert not trace.exists()


def test_a_description_that_cannot_be_written_leaves_the_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "net.pt2"
    target.write_bytes(path.read_bytes())

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        describe_archive(target, FileMetadata(version="1"))
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]
    assert target.read_bytes() == path.read_bytes()


def test_the_environment_is_put_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    TorchExportModel(path)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


def test_other_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt2")
    with pytest.raises(WeightsError, match=r"weights\.pt2 is not a \.pt2 archive of torch"):
        TorchExportModel(tmp_path / "weights.pt2")


def test_a_program_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(2, 3),))
    torch.export.save(program, tmp_path / "flat.pt2")
    with pytest.raises(WeightsError, match=r"flat\.pt2 must take one input \(batch, channels, height, width\)"):
        TorchExportModel(tmp_path / "flat.pt2")
