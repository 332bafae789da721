"""The forms a detector can run in: as it was made, with its norms folded, as an ONNX file for one size or for any."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.detection import MaskRCNN
from torchvision.ops import FrozenBatchNorm2d

from effvit.deploy.formats.onnx import describe_onnx
from effvit.deploy.metadata import FileMetadata
from effvit.deploy.speed.forms import Form, Prepared
from effvit.detection.exported import ExportedDetector, open_exported
from effvit.detection.onnx_file import DetectorModel
from effvit.detection.onnx_graph import with_deploy_form
from effvit.detection.speed_models import SpeedModel
from effvit.errors import ExportError

TORCH, ONNX = "torch", "onnx"
RUNTIMES = (TORCH, ONNX)
_TOLERANCE = 1e-3
"""Largest difference of a folded detector's maps, over the largest value: rounding gives 1e-6."""


def torch_forms(entrant: SpeedModel, picture: Tensor, built: dict[str, nn.Module]) -> list[Form]:
    """Forms in torch: as it was made; its norms folded, our network in the deploy form; the same with channels last.

    Args:
        entrant: A detector.
        picture: What it is run on, float in 0..1, (3, H, W).
        built: Gets the module of each form, by its text.
    """
    model = entrant.model
    assert model is not None

    def prepare(text: str, build: Callable[[Tensor], nn.Module], order: torch.memory_format) -> Callable[..., Prepared]:
        def run(_: Tensor) -> Prepared:
            module = build(picture[None]).to(memory_format=order)
            built[text] = module
            return Prepared(call=lambda: module([picture]))

        return run

    plain, last = torch.contiguous_format, torch.channels_last
    return [
        Form(name="plain", text="as made", prepare=prepare("as made", lambda _: model, plain)),
        Form(name="folded", text="norms folded", prepare=prepare("norms folded", lambda x: folded(model, x), plain)),
        Form(
            name="folded_last",
            text="norms folded, channels last",
            prepare=prepare("norms folded, channels last", lambda x: folded(model, x), last),
        ),
    ]


def onnx_forms(
    entrant: SpeedModel, picture: Tensor, built: dict[str, Any], folder: Path, num_threads: int | None
) -> list[Form]:
    """Forms in ONNX Runtime: the file for pictures of any size, and one for this size.

    Args:
        entrant: A detector or a file.
        picture: What it is run on, float in 0..1, (3, H, W).
        built: Gets the opened file of each form, by its text.
        folder: Where files are written.
        num_threads: Threads within an operator.
    """
    if entrant.file is not None:
        file = open_exported(entrant.file.path, num_threads=num_threads)
        text = "exported file"
        return [Form(name="file", text=text, prepare=lambda _: _bind(file, picture, built, text))]
    assert entrant.model is not None and entrant.config is not None
    model, config = entrant.model, entrant.config
    heads: Any = getattr(model, "roi_heads", model)

    def prepare(text: str, *, is_fixed: bool) -> Callable[[Tensor], Prepared]:
        def run(_: Tensor) -> Prepared:
            import onnx

            size = (picture.shape[1], picture.shape[2]) if is_fixed else None
            path = folder / f"{len(list(folder.iterdir()))}.onnx"
            onnx.save(DetectorModel(model, config, size).at(heads.score_thresh), path)
            task = "masks" if isinstance(model, MaskRCNN) else "boxes"
            described = {**config.to_dict(), "task": task}
            describe_onnx(path, FileMetadata(detector=described))
            return _bind(open_exported(path, num_threads=num_threads), picture, built, text)

        return run

    return [
        Form(name="fixed", text="for this size", prepare=prepare("for this size", is_fixed=True)),
        Form(name="any", text="for any size", prepare=prepare("for any size", is_fixed=False)),
    ]


def _bind(file: ExportedDetector, picture: Tensor, built: dict[str, Any], text: str) -> Prepared:
    built[text] = file
    # (3, H, W) in 0..1 -> (1, H, W, 3) as a decoder gives it
    pixels = (255 * picture).round().to(torch.uint8).permute(1, 2, 0)[None].contiguous().numpy()
    return Prepared(call=lambda: file.run(pixels), file=file.path)


def folded(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose convolutions do the work of the norms behind them, ours in the deploy form for these pictures.

    Args:
        model: A detector of torchvision's.
        images: What it will be run on, (1, 3, H, W) in 0..1.

    Raises:
        ExportError: If its maps are not the model's.
    """
    trial: Any = copy.deepcopy(model).eval()
    batch, _ = trial.transform(list(images))
    size = (batch.tensors.shape[2], batch.tensors.shape[3])
    result = with_deploy_form(model, layout="tokens", image_size=size)
    with torch.no_grad():  # weights made in inference mode could only be used there
        _fold_pairs(result, batch.tensors)
        expected, actual = trial.backbone(batch.tensors), result.get_submodule("backbone")(batch.tensors)
    for name, feature_map in expected.items():
        error = float((feature_map - actual[name]).abs().max())
        if not error <= _TOLERANCE * float(feature_map.abs().max()):
            raise ExportError(f"with its norms folded, map {name} is another: off by {error:.2g}")
    return result


def _fold_pairs(model: nn.Module, images: Tensor) -> None:
    """Fold each norm of the backbone that reads what a convolution has just given."""
    backbone = model.get_submodule("backbone")
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []
    handles = []

    def gave(module: nn.Module, _: object, output: Any) -> None:
        outputs[id(output)] = (module, output)  # type: ignore[assignment]  # kept alive, so that its id stays its own

    def reads(module: nn.Module, inputs: Any) -> None:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))

    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(gave))
        elif isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            handles.append(module.register_forward_pre_hook(reads))
    backbone(images)
    for handle in handles:
        handle.remove()
    places = {module: name for name, module in backbone.named_modules()}
    for convolution, norm in pairs:
        backbone.set_submodule(places[convolution], fuse_conv_bn_eval(convolution, norm))  # type: ignore[arg-type]
        # Timm's norms carry an activation.
        rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
        backbone.set_submodule(places[norm], nn.Sequential(*rest))
