"""The deploy form is the same function, on numbers that hide nothing, and a wrong fold does not pass."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
from helpers import randomise, relative_error
from torch import Tensor, nn

from effvit.deploy import rewrite as module
from effvit.deploy.rewrite import BatchNorm, rewrite
from effvit.model.config import EfficientViTConfig
from effvit.model.factory import create_model
from effvit.model.layers import ConvNorm, NormLinear
from effvit.model.network import EfficientViT
from effvit.model.variants import VARIANTS, family_config

TOLERANCE = 1e-12

ABLATIONS = {
    "layer norm": {"norm": "layer"},
    "mhsa": {"mixer": "mhsa"},
    "grouped": {"mixer": "grouped"},
    "swin": {"layout": "swin"},
    "hard_swish": {"activation": "hard_swish"},
    "no interaction": {"token_interaction": False},
}


def build(config: EfficientViTConfig | str, **options: object) -> EfficientViT:
    """Float64 in eval mode, every number random."""
    model = create_model(config, **{"num_classes": 11, **options})  # type: ignore[arg-type]
    randomise(model.double())
    return model.eval()


def ablation(**changes: object) -> EfficientViTConfig:
    numbers = {"widths": (16, 24, 32), "depths": (1, 1, 1), "num_heads": (2, 2, 2), "query_kernels": (5, 3)}
    return family_config("ablation", **{**numbers, **changes})  # type: ignore[arg-type]


def error(model: nn.Module, deployed: nn.Module, *sizes: tuple[int, int]) -> float:
    """Largest relative error over some picture sizes and batches."""
    errors = []
    for batch, size in enumerate(sizes, start=1):
        images = torch.randn(batch, 3, *size, dtype=torch.float64)
        with torch.inference_mode():
            errors.append(relative_error(deployed(images), model(images)))
    return max(errors)


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, BatchNorm)]


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_computes_the_same(name: str, distilled: bool) -> None:
    model = build(name, distilled=distilled)
    deployed = rewrite(model)
    assert error(model, deployed, (97, 130), (144, 240)) < TOLERANCE
    assert norms(model) and not norms(deployed)
    assert not deployed.training
    assert not any(parameter.requires_grad for parameter in deployed.parameters())


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=list(ABLATIONS))
@pytest.mark.parametrize("distilled", [False, True])
def test_every_ablation_computes_the_same(changes: dict[str, object], distilled: bool) -> None:
    model = build(ablation(**changes), distilled=distilled)
    deployed = rewrite(model)
    assert error(model, deployed, (97, 130), (64, 64)) < TOLERANCE
    kept = [type(m) for m in deployed.modules() if isinstance(m, nn.LayerNorm)]
    assert kept == [type(m) for m in model.modules() if isinstance(m, nn.LayerNorm)]


def test_a_network_without_head_gives_the_same_features() -> None:
    model = build("efficientvit_tiny", num_classes=0)
    assert error(model, rewrite(model), (97, 130)) < TOLERANCE


WRONG = {
    "eps dropped": lambda norm: affine(norm, eps=0.0),
    "mean dropped": lambda norm: affine(norm, running_mean=torch.zeros_like(norm.running_mean)),
    "variance not rooted": lambda norm: affine(norm, running_var=norm.running_var**2),
    "weight dropped": lambda norm: affine(norm, weight=torch.ones_like(norm.weight)),
    "bias dropped": lambda norm: affine(norm, bias=torch.zeros_like(norm.bias)),
    "mean added": lambda norm: affine(norm, running_mean=-norm.running_mean),
    "in single precision": lambda norm: tuple(t.float().double() for t in affine(norm)),
}


def affine(norm: BatchNorm, **wrong: object) -> tuple[Tensor, Tensor]:
    """The textbook's scale and shift, with some values replaced."""
    values = {key: getattr(norm, key) for key in ("weight", "bias", "running_mean", "running_var", "eps")}
    weight, bias, mean, variance, eps = {**values, **wrong}.values()
    scale = weight / torch.sqrt(variance + eps)
    return scale, bias - mean * scale


@pytest.mark.parametrize("only", [ConvNorm, NormLinear])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_a_wrong_fold_is_seen(
    wrong: Callable[[BatchNorm], tuple[Tensor, Tensor]], only: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way to fold wrongly, in the convolutions alone and in the head alone."""
    model = build("efficientvit_tiny")
    kind = nn.BatchNorm2d if only is ConvNorm else nn.BatchNorm1d
    monkeypatch.setattr(module, "_as_affine", lambda norm: (wrong if isinstance(norm, kind) else affine)(norm))
    assert error(model, rewrite(model), (97, 130)) > 1e3 * TOLERANCE


@pytest.mark.parametrize("index", range(len(norms(create_model("efficientvit_tiny")))))
def test_one_wrong_norm_anywhere_is_seen(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer hides from the comparison: a mean forgotten in any single one shows.

    Not at 64 x 64: the last map is one token there, whose attention is 1 whatever the queries are.
    """
    model = build("efficientvit_tiny", num_classes=3)
    count = iter(range(1000))
    wrong = WRONG["mean dropped"]
    monkeypatch.setattr(module, "_as_affine", lambda norm: (wrong if next(count) == index else affine)(norm))
    assert error(model, rewrite(model), (97, 130)) > 1e3 * TOLERANCE


def test_the_network_is_not_touched() -> None:
    model = build("efficientvit_tiny", distilled=True).train()
    sum(logits.sum() for logits in model(torch.randn(2, 3, 64, 64, dtype=torch.float64))).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    config, structure = model.config, str(model)
    deployed = rewrite(model)
    assert model.training and model.config == config and str(model) == structure
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert gradients
    assert all(torch.equal(p.grad, gradients[n]) for n, p in model.named_parameters() if n in gradients)
    own = {p.data_ptr() for p in model.state_dict().values()}
    assert own.isdisjoint(p.data_ptr() for p in deployed.state_dict().values())
    assert all(p.grad is None for p in deployed.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_is_kept_and_values_are_rounded_once(dtype: torch.dtype) -> None:
    model = build("efficientvit_tiny", distilled=True).to(dtype)
    deployed = rewrite(model)
    exact = rewrite(copy.deepcopy(model).double()).state_dict()
    for name, value in deployed.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == dtype, name
            assert torch.equal(value, exact[name].to(dtype)), name
    with torch.inference_mode():
        assert deployed(torch.randn(1, 3, 64, 64, dtype=dtype)).dtype == dtype


def test_distilled_heads_become_one() -> None:
    deployed = rewrite(build("efficientvit_tiny", distilled=True))
    assert isinstance(deployed, EfficientViT)
    assert isinstance(deployed.head, nn.Linear)
    assert deployed.head_distilled is None and not deployed.config.distilled


def test_layers_are_found_wherever_they_are() -> None:
    shared = ConvNorm(3, 3, kernel_size=3)
    wrapped = nn.ModuleDict({"a": nn.Sequential(shared, nn.Sequential(shared, ConvNorm(3, 8, stride=2)))})
    randomise(wrapped.double()).eval()
    images = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    wrapped.requires_grad_(False)
    deployed = rewrite(wrapped)
    assert not norms(deployed)
    assert deployed["a"][0] is deployed["a"][1][0]  # a layer used twice is still one layer
    assert relative_error(deployed["a"](images), wrapped["a"](images)) < TOLERANCE


def test_a_single_layer_is_a_model_too() -> None:
    conv, head = ConvNorm(4, 6, groups=2), NormLinear(4, 6)
    for layer in (conv, head):
        randomise(layer.double()).eval().requires_grad_(False)
    features = torch.randn(3, 4, dtype=torch.float64)
    assert isinstance(rewrite(conv), nn.Conv2d) and isinstance(rewrite(head), nn.Linear)
    assert relative_error(rewrite(conv)(features[..., None, None]), conv(features[..., None, None])) < TOLERANCE
    assert relative_error(rewrite(head)(features), head(features)) < TOLERANCE


def test_norms_without_fixed_statistics_stay() -> None:
    layer = ConvNorm(3, 4).double().eval()
    layer.norm = nn.BatchNorm2d(4, track_running_stats=False).double().eval()
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(rewrite(layer)(images), layer(images))


def test_other_peoples_models_pass_through() -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(rewrite(model)(images), model(images))


def test_the_result_can_be_copied_stored_and_rewritten_again() -> None:
    model = build(replace(VARIANTS["efficientvit_tiny"], distilled=True))
    deployed = rewrite(model)
    for again in (copy.deepcopy(deployed), pickle.loads(pickle.dumps(deployed)), rewrite(deployed)):
        assert error(deployed, again, (64, 64)) == 0
