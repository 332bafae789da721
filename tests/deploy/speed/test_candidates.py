"""A model in a runtime: which forms it may take there, and that each computes what the model does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import randomise, relative_error
from torch import Tensor, nn

import effvit
from effvit.deploy.export import Exported
from effvit.deploy.formats.table import FORMATS
from effvit.deploy.speed import exported_forms
from effvit.deploy.speed.candidates import Candidate, find_candidate
from effvit.deploy.speed.forms import reparameterized, torch_forms
from effvit.deploy.speed.sources import find_entrant
from effvit.errors import ConfigError, ExportError

CPU = torch.device("cpu")
PEER = "mobilenetv3_small_050"


def names(candidate: Candidate) -> list[str]:
    return [form.name for form in candidate.forms]


@pytest.fixture(scope="module")
def ours() -> nn.Module:
    return randomise(effvit.create_model("efficientvit_tiny", num_classes=7, image_size=64)).eval()


@pytest.fixture(scope="module")
def peer() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(PEER).eval()


def test_every_form_in_torch_computes_what_the_model_does(ours: nn.Module, peer: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    for model, expected_names in (
        (ours, {"plain", "tokens", "maps"}),
        (peer, {"plain", "contiguous", "channels_last"}),
    ):
        forms = torch_forms(model, runtime="torch", precision="fp32", device=CPU)
        assert {form.name for form in forms} == expected_names
        with torch.inference_mode():
            expected = model(images)
            for form in forms:
                answer = form.prepare(images).call()
                assert isinstance(answer, Tensor)
                assert relative_error(answer, expected) < 1e-4, form.text


def test_a_trace_computes_what_the_model_does(ours: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    (form,) = (f for f in torch_forms(ours, runtime="trace", precision="fp32", device=CPU) if f.name == "tokens")
    with torch.inference_mode():
        answer = form.prepare(images).call()
        assert isinstance(answer, Tensor) and relative_error(answer, ours(images)) < 1e-4


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_tried_with_and_without_autocast(peer: nn.Module, precision: str, dtype: torch.dtype) -> None:
    forms = torch_forms(peer, runtime="torch", precision=precision, device=CPU)
    assert len(forms) == 6 and sum("autocast" in form.text for form in forms) == 3
    for form in forms[:2]:
        with torch.inference_mode():
            answer = form.prepare(torch.randn(1, 3, 64, 64)).call()
        assert isinstance(answer, Tensor) and answer.dtype == dtype
    (traced, *_) = torch_forms(peer, runtime="trace", precision=precision, device=CPU)
    assert "autocast" in traced.text  # as the paper's script has it


def test_a_form_has_the_memory_order_that_its_name_says(peer: nn.Module) -> None:
    seen: list[bool] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return x

    for form in torch_forms(Spy(), runtime="torch", precision="fp32", device=CPU):
        form.prepare(torch.randn(2, 3, 8, 8)).call()
    assert seen == [False, False, True]


def test_the_model_itself_is_left_as_it_was(peer: nn.Module) -> None:
    model = timm.create_model(PEER).train()
    structure = str(model)
    for form in torch_forms(model, runtime="torch", precision="bf16", device=CPU):
        form.prepare(torch.randn(1, 3, 64, 64))
    assert model.training and str(model) == structure
    assert next(model.parameters()).dtype == torch.float32 and next(model.parameters()).requires_grad


def test_a_model_that_is_fused_in_eval_mode_only_is_fused() -> None:
    model = timm.create_model("efficientvim_m1").train()
    fused = reparameterized(model)
    assert model.training and not fused.training
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (model, fused)]
    assert norms[1] < norms[0]
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert relative_error(fused(images), model.eval()(images)) < 1e-4


@pytest.mark.slow
def test_a_compiled_form_computes_what_the_model_does(ours: nn.Module) -> None:
    for size in (1, 2):
        images = torch.randn(size, 3, 64, 64)
        for form in torch_forms(ours, runtime="compile", precision="fp32", device=CPU):
            with torch.inference_mode():
                answer = form.prepare(images).call()
                assert isinstance(answer, Tensor) and relative_error(answer, ours(images)) < 1e-4


def test_best_is_all_but_plain_and_another_form_is_itself(tmp_path: Path) -> None:
    entrant = find_entrant(PEER, image_size=(32, 32))
    assert names(find_candidate(entrant, folder=tmp_path)) == ["contiguous", "channels_last"]
    plain = find_entrant(f"{PEER}@plain", image_size=(32, 32))
    assert names(find_candidate(plain, folder=tmp_path)) == ["plain"]
    assert names(find_candidate(entrant, runtime="onnxruntime", folder=tmp_path)) == ["dynamo", "torchscript"]
    variant = find_entrant("efficientvit_tiny", image_size=(32, 32))
    assert names(find_candidate(variant, runtime="onnxruntime", folder=tmp_path)) == ["dynamo"]
    with pytest.raises(ConfigError, match="@plain: no form 'plain' in onnxruntime; there is dynamo, torchscript"):
        find_candidate(plain, runtime="onnxruntime", folder=tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def test_both_exporters_write_what_the_model_computes_and_files_are_used_again(
    files: Path, peer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = find_candidate(
        find_entrant(peer, image_size=(32, 32)), runtime="onnxruntime", num_threads=1, folder=files
    )
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = peer(images)
    for form in candidate.forms:
        answer = form.prepare(images).call()
        assert isinstance(answer, Tensor) and relative_error(answer, expected) < 1e-4
    written = {path.name for path in files.iterdir()}
    assert len(written) == 2
    monkeypatch.setattr(exported_forms, "export", None)  # would fail if it was called
    assert candidate.forms[0].prepare(images[:1]).file is not None
    assert {path.name for path in files.iterdir()} == written


def test_int8_is_made_from_the_float_file(files: Path, peer: nn.Module) -> None:
    candidate = find_candidate(
        find_entrant(peer, image_size=(32, 32), form="torchscript"),
        runtime="onnxruntime",
        precision="int8",
        num_threads=1,
        folder=files,
    )
    prepared = candidate.forms[0].prepare(torch.randn(2, 3, 32, 32))
    answer = prepared.call()
    assert isinstance(answer, Tensor) and answer.isfinite().all()
    assert prepared.file is not None and "int8" in prepared.file.name
    floats = [path for path in files.iterdir() if "torchscript-fp32" in path.name]
    assert prepared.file.stat().st_size < 0.5 * floats[0].stat().st_size


def test_other_weights_are_another_file(tmp_path: Path) -> None:
    entrants = [find_entrant(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))) for _ in range(2)]
    assert len({exported_forms._identity(entrant, FORMATS["onnx"]) for entrant in entrants}) == 2
    named = [find_entrant(PEER) for _ in range(2)]  # random each time: no reason to export again
    assert len({exported_forms._identity(entrant, FORMATS["onnx"]) for entrant in named}) == 1


def test_what_else_makes_a_file_makes_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(model: nn.Module) -> str:
        return exported_forms._identity(find_entrant(model), FORMATS["onnx"])

    assert identity(nn.Sequential(nn.ReLU())) != identity(nn.Sequential(nn.GELU()))  # no weights tell them apart
    wide, narrow = (nn.Linear(*sides, bias=False) for sides in ((2, 3), (3, 2)))
    narrow.weight.data = wide.weight.data.reshape(2, 3)
    assert identity(wide) != identity(narrow)
    before = identity(wide)
    monkeypatch.setattr(exported_forms, "_version", lambda package: f"another {package}")
    assert identity(wide) != before


def test_programs_are_compiled_with_their_weights_frozen(ours: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    frozen: list[bool] = []

    def compiler(forward: Callable[[Tensor], Tensor], **_: Any) -> Callable[[Tensor], Tensor]:
        def compiled(images: Tensor) -> Tensor:
            frozen.append(config.freezing)
            return forward(images)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    torch_forms(ours, runtime="compile", precision="fp32", device=CPU)[0].prepare(torch.zeros(1, 3, 64, 64))
    assert frozen == [True] and not config.freezing


class FixedBatch(nn.Module):
    """Code that fixes the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.stack([x[i].mean((1, 2)) for i in range(x.shape[0])]))


def test_a_network_whose_code_fixes_the_batch_gets_a_file_per_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FixedBatch().eval()
    entrant = find_entrant(model, image_size=(8, 8), form="dynamo")
    candidate = find_candidate(entrant, runtime="onnxruntime", num_threads=1, folder=tmp_path)
    for size in (1, 2):
        images = torch.randn(size, 3, 8, 8)
        answer = candidate.forms[0].prepare(images).call()
        assert isinstance(answer, Tensor) and relative_error(answer, model(images).detach()) < 1e-5
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_stays_in_its_runtime(exported: tuple[Exported, str], tmp_path: Path) -> None:
    entrant = find_entrant(exported[0].path)
    candidate = find_candidate(entrant, runtime="torch", precision="bf16", num_threads=1, folder=tmp_path)
    assert (candidate.label, candidate.runtime, candidate.precision) == ("tiny", "onnxruntime", "fp32")
    answer = candidate.forms[0].prepare(torch.zeros(1, 3, 160, 272)).call()
    assert isinstance(answer, Tensor) and answer.shape == (1, 5)
    pytest.importorskip("openvino")
    elsewhere = find_candidate(entrant, runtime="openvino", num_threads=1, folder=tmp_path)
    answer = elsewhere.forms[0].prepare(torch.zeros(1, 3, 160, 272)).call()
    assert elsewhere.runtime == "openvino" and isinstance(answer, Tensor) and answer.shape == (1, 5)


def test_what_does_not_go_together_is_refused(exported: tuple[Exported, str], tmp_path: Path) -> None:
    entrant = find_entrant("efficientvit_tiny", image_size=(32, 32))
    refused = [
        ({"runtime": "onnxruntime", "device": "cuda"}, "onnxruntime runs on the CPU only here, got device cuda"),
        ({"runtime": "tensorrt"}, "unknown runtime 'tensorrt'; known: torch, compile"),
        ({"precision": "int4"}, "unknown precision 'int4' .*; known: fp32"),
        ({"precision": "int8"}, "torch computes in fp32, fp16, bf16, not in int8"),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "onnxruntime computes in .*, not in bf16"),
        ({"runtime": "cuda-graph"}, "cuda-graph needs a CUDA device, got cpu"),
    ]
    for arguments, message in refused:
        with pytest.raises(ConfigError, match=message):
            find_candidate(entrant, folder=tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tiny runs on the CPU only here, got device cuda"):
        find_candidate(find_entrant(exported[0].path), device="cuda", folder=tmp_path)


def test_what_cannot_be_exported_is_said_once_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = find_candidate(find_entrant(nn.Flatten(2), image_size=(8, 8)), runtime="onnxruntime", folder=tmp_path)
    form = candidate.forms[0]
    with pytest.raises(ExportError, match="Flatten must answer"):
        form.prepare(torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr(exported_forms, "export", None)
    with pytest.raises(ExportError, match="Flatten must answer"):
        form.prepare(torch.zeros(1, 3, 8, 8))
    assert not list(tmp_path.iterdir())
