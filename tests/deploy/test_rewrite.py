"""The deploy form is the same function, on numbers that hide nothing, and no step of the rewriting may be wrong."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from helpers import randomise, relative_error
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from effvit.deploy import attention, folding
from effvit.deploy import rewrite as module
from effvit.deploy.folding import BatchNorm
from effvit.deploy.network import DeployedEfficientViT
from effvit.deploy.rewrite import rewrite
from effvit.deploy.windows import WindowGrid
from effvit.errors import ConfigError
from effvit.model.config import EfficientViTConfig
from effvit.model.factory import create_model
from effvit.model.layers import ConvNorm, NormLinear
from effvit.model.network import EfficientViT
from effvit.model.variants import VARIANTS, family_config

TOLERANCE = 1e-12
SEEN = 100 * TOLERANCE
"""What a wrong step must reach; one rounded to float32 reaches 5e-10."""
SIZES = ((97, 130), (144, 240), (64, 64))
"""Windows cut, padded in both directions and masked; cut in one; a last map of one token."""

ABLATIONS = {
    "grouped": {"mixer": "grouped"},
    "swin": {"layout": "swin"},
    "hard_swish": {"activation": "hard_swish"},
    "gelu": {"activation": "gelu"},
    "silu": {"activation": "silu"},
    "no interaction": {"token_interaction": False},
    "no query convolutions": {"query_kernels": ()},
    "narrow values": {"value_ratio": 0.5},
    "wide values": {"value_ratio": 2},
    "official padding": {"mask_padding": False},
    "attention in one stage": {"num_heads": (0, 2, 0)},
    "no attention in a swin block": {"num_heads": (2, 0, 0), "layout": "swin", "token_interaction": False},
}
KEPT = {"layer norm": {"norm": "layer"}, "mhsa": {"mixer": "mhsa"}}
"""Networks that the deploy form does not know: their norms are folded where they can be."""


def build(config: EfficientViTConfig | str, **options: object) -> EfficientViT:
    """Float64 in eval mode, every number random."""
    model = create_model(config, **{"num_classes": 11, **options})  # type: ignore[arg-type]
    randomise(model.double())
    return model.eval()


def ablation(**changes: Any) -> EfficientViTConfig:
    mask_padding = changes.pop("mask_padding", True)
    value_ratio = changes.pop("value_ratio", 1)
    numbers = {"widths": (16, 24, 32), "depths": (1, 1, 1), "num_heads": (2, 2, 2), "query_kernels": (5, 3)}
    config = family_config("ablation", **{**numbers, **changes})
    stages = []
    for stage in config.stages:
        blocks = (replace(block, value_dim=int(block.value_dim * value_ratio)) for block in stage.blocks)
        stages.append(replace(stage, blocks=tuple(blocks)))
    return replace(config, stages=tuple(stages), mask_padding=mask_padding)


def error(model: nn.Module, deploy: Callable[[tuple[int, int]], nn.Module], *sizes: tuple[int, int]) -> float:
    """Largest relative error over some picture sizes and batches of 1 to 5."""
    errors = []
    for index, size in enumerate(sizes):
        deployed = deploy(size)
        for batch in (1, 2 + index):
            images = torch.randn(batch, 3, *size, dtype=torch.float64)
            with torch.inference_mode():
                errors.append(relative_error(deployed(images), model(images)))
    return max(errors)


def forms(model: nn.Module) -> dict[str, Callable[[tuple[int, int]], nn.Module]]:
    """Every way to rewrite it, by picture size."""
    free = {layout: rewrite(model, layout=layout) for layout in ("tokens", "maps")}
    return {
        "tokens": lambda size: free["tokens"],
        "tokens, fixed": lambda size: rewrite(model, layout="tokens", image_size=size),
        "maps": lambda size: free["maps"],
        "maps, fixed": lambda size: rewrite(model, layout="maps", image_size=size),
    }


def worst(model: nn.Module, *sizes: tuple[int, int]) -> float:
    """Largest error of any form."""
    return max(error(model, deploy, *sizes) for deploy in forms(model).values())


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, BatchNorm)]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_computes_the_same(name: str) -> None:
    assert worst(build(name, distilled=True), (97, 130)) < TOLERANCE


@pytest.mark.parametrize("size", [*SIZES, (32, 32), (33, 200), (112, 112)], ids=str)
@pytest.mark.parametrize("form", ["tokens", "tokens, fixed", "maps", "maps, fixed"])
def test_odd_sizes_masks_and_batches(form: str, size: tuple[int, int]) -> None:
    model = build("efficientvit_tiny")
    deployed = forms(model)[form](size)
    assert isinstance(deployed, DeployedEfficientViT)
    assert not norms(deployed) and not deployed.training
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    for batch in range(1, 6):
        images = torch.randn(batch, 3, *size, dtype=torch.float64)
        with torch.inference_mode():
            expected = model(images)
            assert relative_error(deployed(images), expected) < TOLERANCE
            channels_last = images.contiguous(memory_format=torch.channels_last)
            assert relative_error(deployed(channels_last), expected) < TOLERANCE


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=list(ABLATIONS))
@pytest.mark.parametrize("distilled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_ablation_computes_the_same(changes: dict[str, object], distilled: bool) -> None:
    """The second head is that of every variant above."""
    model = build(ablation(**changes), distilled=distilled)
    assert isinstance(rewrite(model), DeployedEfficientViT)
    assert worst(model, *SIZES) < TOLERANCE


@pytest.mark.parametrize("changes", KEPT.values(), ids=list(KEPT))
@pytest.mark.parametrize("distilled", [False, True])
def test_what_the_form_does_not_know_keeps_its_structure(changes: dict[str, object], distilled: bool) -> None:
    model = build(ablation(**changes), distilled=distilled)
    deployed = rewrite(model)
    assert isinstance(deployed, EfficientViT) and not norms(deployed)
    assert error(model, lambda size: deployed, (97, 130), (64, 64)) < TOLERANCE
    kept = [type(m) for m in deployed.modules() if isinstance(m, nn.LayerNorm)]
    assert kept == [type(m) for m in model.modules() if isinstance(m, nn.LayerNorm)]


def test_a_network_without_head_gives_the_same_features() -> None:
    assert worst(build("efficientvit_tiny", num_classes=0), (97, 130)) < TOLERANCE


class Dimensions(TorchDispatchMode):
    """Notes the most dimensions of any tensor that an operator gives."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else [result]
        self.most = max([self.most, *(t.dim() for t in tensors if isinstance(t, Tensor))])
        return result


@pytest.mark.parametrize("form", ["tokens", "tokens, fixed", "maps", "maps, fixed"])
def test_no_tensor_has_more_than_four_dimensions(form: str) -> None:
    model = build("efficientvit_tiny")
    images = torch.randn(2, 3, 160, 272, dtype=torch.float64)
    with torch.no_grad():
        with Dimensions() as network:
            model(images)
        with Dimensions() as deployed:
            forms(model)[form]((160, 272))(images)
    assert network.most > 4 >= deployed.most


def test_a_fixed_form_takes_no_other_size() -> None:
    deployed = rewrite(build("efficientvit_tiny"), image_size=(96, 64))
    with pytest.raises(ConfigError, match=r"height 96 and width 64, which it was rewritten for, got \(1, 3, 64, 96\)"):
        deployed(torch.zeros(1, 3, 64, 96, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"height and width from 32 up, got \(1, 3, 16, 96\)"):
        deployed(torch.zeros(1, 3, 16, 96, dtype=torch.float64))
    with pytest.raises(ConfigError, match="image_size must be a height and a width from 32 up"):
        rewrite(build("efficientvit_tiny"), image_size=16)
    with pytest.raises(ConfigError, match="layout must be tokens or maps, got 'nchw'"):
        rewrite(build("efficientvit_tiny"), layout="nchw")  # type: ignore[arg-type]


def test_pictures_are_not_written_to() -> None:
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    for deploy in forms(build(ablation(layout="swin", token_interaction=False))).values():
        deploy((64, 64))(images)
    assert torch.equal(images, before)


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
    monkeypatch.setattr(folding, "as_affine", lambda norm: (wrong if isinstance(norm, kind) else affine)(norm))
    assert best(model, (97, 130)) > SEEN


@pytest.mark.parametrize(
    "index",  # a third of the layers; all of them take a quarter of a minute
    [
        pytest.param(index, marks=[pytest.mark.slow] if index % 3 else [])
        for index in range(len(norms(create_model("efficientvit_tiny"))))
    ],
)
def test_one_wrong_norm_anywhere_is_seen(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer hides from the comparison: a mean forgotten in any single one shows.

    Not at 64 x 64: the last map is one token there, whose attention is 1 whatever the queries are.
    """
    model = build("efficientvit_tiny", num_classes=3)
    marked = norms(model)[index]
    wrong = WRONG["mean dropped"]
    monkeypatch.setattr(folding, "as_affine", lambda norm: (wrong if norm is marked else affine)(norm))
    assert best(model, (97, 130)) > SEEN


def best(model: nn.Module, size: tuple[int, int]) -> float:
    """Smallest error of any form: what all of them show."""
    return min(error(model, deploy, size) for deploy in forms(model).values())


def lowest_precision(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step with its result rounded to float32."""

    def rounded(*arguments: Any) -> Any:
        result = step(*arguments)
        return tuple(t.float().double() for t in result) if isinstance(result, tuple) else result.float().double()

    return rounded


def corner(weight: Tensor) -> Tensor:
    weight = weight.clone()
    weight[:, 0, 0, 0] += 1
    return weight


def unmasked(table: Tensor, grid: WindowGrid) -> attention.WindowTables:
    tables = RIGHT["window_tables"](table, grid)
    if tables.inside is None:
        return tables  # type: ignore[no-any-return]
    return attention.WindowTables(table[:, None].expand_as(tables.bias), None)


def masked_logits_only(table: Tensor, grid: WindowGrid) -> attention.WindowTables:
    return replace(RIGHT["window_tables"](table, grid), inside=None)


def other_heads_table(table: Tensor, grid: WindowGrid) -> attention.WindowTables:
    return RIGHT["window_tables"](table.flip(0), grid)  # type: ignore[no-any-return]


RIGHT: dict[str, Any] = {
    name: getattr(where, name)
    for where, names in (
        (module, ("with_residual", "scaled", "without_shift", "_movable_bias", "_classifier")),
        (attention, ("window_tables", "convolution_matrix", "add_common_channels")),
    )
    for name in names
}
MUTATIONS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "residual forgotten": (module, "with_residual", lambda weight: weight),
    "residual in the corner": (module, "with_residual", corner),
    "residual in float32": (module, "with_residual", lowest_precision(module.with_residual)),
    "scale forgotten": (module, "scaled", lambda weight, bias, scale: (weight, bias)),
    "scale of the bias forgotten": (module, "scaled", lambda weight, bias, scale: (weight * scale, bias)),
    "scale in float32": (module, "scaled", lowest_precision(module.scaled)),
    "shift not taken out": (module, "without_shift", lambda weight, bias, shift: bias),
    "shift added": (module, "without_shift", lambda weight, bias, shift: bias + weight @ shift),
    "shift in float32": (module, "without_shift", lowest_precision(module.without_shift)),
    "half of the bias moved": (module, "_movable_bias", lambda *a: RIGHT["_movable_bias"](*a) / 2),
    "one head of two": (module, "_classifier", lambda model: folded_head(model)),
    "padding attends": (attention, "window_tables", unmasked),
    "padding in the queries": (attention, "window_tables", masked_logits_only),
    "table of another head": (attention, "window_tables", other_heads_table),
    "table forgotten": (attention, "window_tables", lambda t, grid: RIGHT["window_tables"](0 * t, grid)),
    "no cascade": (attention, "add_common_channels", lambda split, output: split),
}


def folded_head(model: EfficientViT) -> tuple[Tensor, Tensor]:
    weight, bias = folding.folded(model.head)
    return weight.t().contiguous(), bias


@pytest.mark.parametrize(("where", "name", "wrong"), MUTATIONS.values(), ids=list(MUTATIONS))
def test_a_wrong_step_is_seen_in_every_form(
    where: Any, name: str, wrong: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("efficientvit_tiny", distilled=True)
    monkeypatch.setattr(where, name, wrong)
    assert best(model, (97, 130)) > SEEN


@pytest.mark.parametrize(
    "wrong",
    [
        lambda weight, size: RIGHT["convolution_matrix"](weight, size).transpose(1, 2),
        lambda weight, size: RIGHT["convolution_matrix"](weight, size[::-1]),
        lambda weight, size: RIGHT["convolution_matrix"](weight, size).float().double(),
    ],
    ids=["transposed", "height and width exchanged", "in float32"],
)
def test_a_wrong_query_matrix_is_seen(wrong: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """At a size whose last map is 2 x 3 tokens, so that its height is not its width."""
    model = build("efficientvit_tiny")
    monkeypatch.setattr(attention, "convolution_matrix", wrong)
    assert error(model, forms(model)["tokens, fixed"], (97, 130)) > SEEN


def test_moving_the_bias_past_unmasked_padding_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(ablation(mask_padding=False))
    monkeypatch.setattr(module, "_movable_bias", lambda units, attention: folding.folded(attention.mixer.project)[1])
    assert best(model, (160, 272)) > SEEN


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


@pytest.mark.parametrize("path", ["stem.0", "stages.1.0.merge.expand", "stages.0.0.attention.body.mixer.project"])
def test_one_norm_without_fixed_statistics_keeps_the_network(path: str) -> None:
    model = build("efficientvit_tiny")
    norm = model.get_submodule(f"{path}.norm")
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    deployed = rewrite(model)
    assert isinstance(deployed, EfficientViT) and len(norms(deployed)) == 1
    assert error(model, lambda size: deployed, (97, 130)) < TOLERANCE


def test_norms_synchronised_in_training_are_folded() -> None:
    model = build("efficientvit_tiny")
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).eval()
    images = torch.randn(2, 3, 97, 130, dtype=torch.float64)
    with torch.inference_mode():
        assert relative_error(rewrite(synchronised)(images), model(images)) < TOLERANCE


@pytest.mark.parametrize("layout", ["tokens", "maps"])
def test_autocast(layout: Any) -> None:
    model = build("efficientvit_tiny").float()
    images = torch.randn(2, 3, 160, 272)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        answer = rewrite(model, layout=layout, image_size=(160, 272))(images)
        assert answer.dtype == torch.bfloat16
        assert relative_error(answer.float(), model(images).float()) < 0.05


def test_other_peoples_models_pass_through() -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(rewrite(model)(images), model(images))


@pytest.mark.parametrize("size", [None, (64, 64)])
def test_the_result_can_be_copied_stored_and_rewritten_again(size: tuple[int, int] | None) -> None:
    deployed = rewrite(build("efficientvit_tiny", distilled=True), image_size=size)
    assert isinstance(deployed, DeployedEfficientViT) and not deployed.config.distilled
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for again in (copy.deepcopy(deployed), pickle.loads(pickle.dumps(deployed)), rewrite(deployed)):
        assert torch.equal(again(images), deployed(images))
    again = rewrite(build("efficientvit_tiny", distilled=True, num_classes=11), image_size=size)
    again.load_state_dict({name: torch.zeros_like(value) for name, value in deployed.state_dict().items()})
    again.load_state_dict(deployed.state_dict())
    assert torch.equal(again(images), deployed(images))
