"""How a network starts, other windows, and who learns how fast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error

import effvit
from effvit.errors import ConfigError, WeightsError
from effvit.model.checkpoints import foreign_state_dict
from effvit.model.config import EfficientViTConfig, Norm
from effvit.model.names import Style
from effvit.model.network import Block
from effvit.model.resizing import resize_bias_table

TINY = "efficientvit_tiny"


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_new_block_is_the_identity(norm: Norm, training: bool) -> None:
    model = effvit.create_model(replace(effvit.create_model(TINY).config, norm=norm)).train(training)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(blocks) == 4
    for block, stage in zip(blocks, (0, 1, 2, 2), strict=True):
        x = torch.randn(2, model.config.stages[stage].width, 10, 9)
        assert torch.equal(block(x), x)


def without_attention(network: effvit.EfficientViT, stage: int, block: int) -> EfficientViTConfig:
    """The configuration with no heads in one block."""
    stages = list(network.config.stages)
    blocks = list(stages[stage].blocks)
    blocks[block] = replace(blocks[block], num_heads=0, value_dim=0, query_kernels=())
    stages[stage] = replace(stages[stage], blocks=tuple(blocks))
    return replace(network.config, stages=tuple(stages))


@torch.no_grad()
@pytest.mark.parametrize(("stage", "block"), [(0, 0), (2, 1)])
def test_a_block_without_heads_is_the_block_with_an_attention_that_adds_nothing(stage: int, block: int) -> None:
    model = randomise(effvit.create_model(TINY, num_classes=5, drop_path=0.1).double()).eval()
    place = f"stages.{stage}.{block if stage == 0 else block + 1}.attention"
    projection = model.get_submodule(f"{place}.body.mixer.project.norm")
    smaller = effvit.create_model(without_attention(model, stage, block)).double().eval()
    smaller.load_state_dict({name: v for name, v in model.state_dict().items() if not name.startswith(place)})
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    assert relative_error(smaller(images), model(images)) > 1e-3
    projection.weight.zero_()
    projection.bias.zero_()
    assert torch.equal(smaller(images), model(images))


def test_a_block_without_heads_is_saved_resized_and_trained_like_any(tmp_path: Path) -> None:
    model = randomise(effvit.create_model(without_attention(effvit.create_model(TINY, num_classes=3), 2, 0)))
    effvit.save(tmp_path, model)
    loaded, _ = effvit.load(tmp_path)
    images = torch.randn(2, 3, 160, 128)
    assert loaded.config == model.config and torch.equal(loaded(images), model.eval()(images))
    assert model.resized(image_size=96)(images).shape == (2, 3)
    model.train()(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    groups = model.parameter_groups(learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("style", ["official", "timm"])
def test_other_worlds_know_no_block_without_heads(style: Style) -> None:
    model = effvit.create_model(without_attention(effvit.create_model(TINY), 1, 0))
    with pytest.raises(WeightsError, match="not every block is cascaded group attention with query convolutions"):
        foreign_state_dict(model, style)


def test_norms_start_as_in_timms_network() -> None:
    """Zero at the end of a block's branches, one elsewhere, beside the merging too."""
    ours = foreign_state_dict(effvit.create_model("efficientvit_m0"), "timm")
    theirs = timm.create_model("efficientvit_m0").state_dict()
    weights = {name: value for name, value in theirs.items() if name.endswith("bn.weight")}
    assert {value.unique().item() for value in weights.values()} == {0.0, 1.0}
    assert [name for name, value in weights.items() if not torch.equal(ours[name], value)] == []


def test_heads_start_small_and_normal_with_bias_zero() -> None:
    model = effvit.create_model(TINY, num_classes=1000, distilled=True)
    for head in (model.head, model.head_distilled):
        weight = head.linear.weight
        assert weight.std().item() == pytest.approx(0.02, rel=0.03) and abs(weight.mean().item()) < 5e-4
        assert (weight.abs() < 0.02).float().mean().item() == pytest.approx(0.683, abs=0.02)  # a uniform one: 0.58
        assert not head.linear.bias.any()


@torch.no_grad()
def test_resized_to_the_same_windows_is_the_same_function() -> None:
    model = randomise(effvit.create_model(TINY)).double().eval()
    twin = model.resized(image_size=(200, 224))  # maps 13x14, 7x7, 4x4: the same windows
    x = torch.randn(1, 3, 100, 224).double()
    assert twin is not model and torch.equal(twin(x), model(x))


@torch.no_grad()
def test_resized_keeps_the_original_dtype_mode_and_frozen_parameters() -> None:
    model = randomise(effvit.create_model(TINY)).double().eval()
    model.stem.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = model.resized(image_size=448, window=8)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.config.windows() == (7, 7, 4) and other.config.windows() == (8, 8, 7)
    assert not other.training and next(other.parameters()).dtype == torch.float64
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]
    assert other(torch.randn(1, 3, 448, 448).double()).shape == (1, 1000)


@torch.no_grad()
def test_tables_are_resized_as_pictures() -> None:
    table = torch.randn(3, 16)
    expected = F.interpolate(table.view(1, 3, 4, 4), size=(7, 7), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resize_bias_table(table, 49), expected.view(3, 49))
    constant = torch.full((2, 9), 1.5, dtype=torch.float64)
    torch.testing.assert_close(resize_bias_table(constant, 36), torch.full((2, 36), 1.5, dtype=torch.float64))
    assert resize_bias_table(table.bfloat16(), 49).dtype == torch.bfloat16


def test_a_table_is_a_square() -> None:
    with pytest.raises(ConfigError, match="got 16 and 50"):
        resize_bias_table(torch.zeros(1, 16), 50)


def test_windows_and_image_size_at_build_time() -> None:
    model = effvit.create_model(TINY, image_size=(96, 320), window=5)
    assert [stage[-1].attention.body.window for stage in model.stages] == [5, 5, 5]
    assert effvit.create_model(TINY, image_size=64).config.windows() == (4, 2, 1)


def test_no_weight_decay_names_the_bias_tables() -> None:
    model = effvit.create_model("efficientvit_m0")
    names = model.no_weight_decay()
    assert len(names) == 6 and all(name.endswith("attention_biases") for name in names)


def test_parameter_groups_cover_everything_once() -> None:
    model = effvit.create_model("efficientvit_m0", num_classes=10)
    groups = model.parameter_groups(learning_rate=0.5, weight_decay=0.1, layer_decay=0.5)
    grouped = [name for group in groups for name in group["names"]]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    parameters = dict(model.named_parameters())
    for group in groups:
        assert group["lr"] == 0.5 * group["lr_scale"]
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert parameter is parameters[name]
            decayed = parameter.dim() > 1 and not name.endswith("attention_biases")
            assert group["weight_decay"] == (0.1 if decayed else 0.0), name


def test_layer_decay_by_depth() -> None:
    model = effvit.create_model("efficientvit_m0")
    groups = model.parameter_groups(learning_rate=1.0, weight_decay=0.0, layer_decay=0.5)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert scale["head.linear.weight"] == 1
    assert scale["stages.2.3.attention.body.attention_biases"] == 0.5  # the last of six blocks
    assert scale["stages.2.1.attention.body.attention_biases"] == 0.5**3
    assert scale["stages.2.0.merge.expand.conv.weight"] == 0.5**3  # with the block that follows
    assert scale["stages.1.1.before.0.ffn.body.expand.conv.weight"] == 0.5**5
    assert scale["stages.0.0.attention.body.attention_biases"] == 0.5**6
    assert scale["stem.0.conv.weight"] == 0.5**7


def test_one_rate_is_two_groups_and_frozen_parameters_are_left_out() -> None:
    model = effvit.create_model(TINY)
    model.stem.requires_grad_(False)
    groups = model.parameter_groups(learning_rate=1.0, weight_decay=0.1)
    assert len(groups) == 2
    assert not any(name.startswith("stem") for group in groups for name in group["names"])


@pytest.mark.parametrize("decay", [0, 1.5, -1])
def test_bad_layer_decay(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"layer_decay must be in \(0, 1\], got"):
        effvit.create_model(TINY).parameter_groups(learning_rate=1.0, weight_decay=0.0, layer_decay=decay)


@torch.no_grad()
def test_resizing_matters_little_to_a_smooth_table() -> None:
    model = randomise(effvit.create_model(TINY)).double().eval()
    for stage in model.stages:
        for layer in stage.children():
            if hasattr(layer, "attention"):
                table = layer.attention.body.attention_biases
                window = round(table.shape[1] ** 0.5)
                offset = torch.linspace(0, 1, window).double()
                table.copy_(-(offset[:, None] + offset).flatten().expand_as(table))
    x = torch.randn(1, 3, 448, 448).double()
    assert relative_error(model.resized(window=8)(x), model(x)) < 0.2
