"""aot-inductor on a network small enough to compile while one waits; on ours in the slow tests of every format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from effvit.deploy.export import FORMATS, Exported, export
from effvit.deploy.formats.aot_inductor import AotInductorModel
from effvit.deploy.formats.archive import describe_archive
from effvit.deploy.formats.torch_export import TorchExportModel
from effvit.deploy.metadata import FileMetadata
from effvit.errors import ConfigError, WeightsError
from effvit.model.checkpoints import WeightsInfo
from effvit.preprocessing import Preprocessing

INFO = WeightsInfo(class_names=("a", "米"), preprocessing=Preprocessing(image_size=(4, 6)))


class _Small(nn.Module):
    """Mean of each channel, and two classes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, nn.Module]:
    if FORMATS["aot-inductor"].obstacle():
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    network = _Small().eval()
    path = tmp_path_factory.mktemp("aoti") / "small.aoti.pt2"
    return export(network, path, info=INFO, file_format="aot-inductor"), network


def test_the_package_computes_what_the_network_does(compiled: tuple[Exported, nn.Module]) -> None:
    result, network = compiled
    model = AotInductorModel(result.path, num_threads=1)
    images = torch.randn(4, 3, 4, 6)
    torch.testing.assert_close(model(images), network(images).detach())
    assert model.metadata == result.metadata and model.metadata.class_names == INFO.class_names
    assert model.input_shape == (None, 3, 4, 6)
    assert [path.name for path in result.path.parent.iterdir()] == ["small.aoti.pt2"]


def test_sizes_are_checked_because_the_code_does_not(compiled: tuple[Exported, nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"takes pictures of shape \(any, 3, 4, 6\), got \(1, 3, 4, 5\)"):
        AotInductorModel(compiled[0].path)(torch.zeros(1, 3, 4, 5))


def test_the_two_kinds_of_archive_are_told_apart(compiled: tuple[Exported, nn.Module], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is a package of machine code: its name must end in \.aoti\.pt2"):
        TorchExportModel(compiled[0].path)
    path = export(_Small().eval(), tmp_path / "small.pt2", info=INFO, file_format="torch-export").path
    with pytest.raises(WeightsError, match="is not a package of aot-inductor: it holds no machine code"):
        AotInductorModel(path)


def test_a_package_that_does_not_say_what_it_takes_is_not_run(
    compiled: tuple[Exported, nn.Module], tmp_path: Path
) -> None:
    path = tmp_path / "silent.aoti.pt2"
    path.write_bytes(compiled[0].path.read_bytes())
    describe_archive(path, FileMetadata())
    with pytest.raises(WeightsError, match="it does not say which pictures it takes"):
        AotInductorModel(path)


def test_without_a_compiler_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", _no_compiler)
    with pytest.raises(
        ConfigError, match=r"'aot-inductor' cannot be written here: there is no C\+\+ compiler; install"
    ):
        export(_Small().eval(), tmp_path / "a.aoti.pt2", info=INFO, file_format="aot-inductor")
    assert list(tmp_path.iterdir()) == []


def _no_compiler() -> str:
    raise RuntimeError("none")
