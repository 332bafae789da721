from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from detectors import TwoMaps
from helpers import randomise, relative_error
from official import reference_values, write_official
from safetensors.torch import save_file

import effvit
from effvit.detection.backbones import Backbone, find_backbone
from effvit.errors import ConfigError, WeightsError
from effvit.model.config import BlockConfig, StageConfig, SubsampleConfig
from effvit.model.variants import VARIANTS, variant_config

TINY = "efficientvit_tiny"
SMALL_TIMM = "mobilenetv2_035"


@pytest.mark.parametrize(
    ("key", "variant", "height", "width", "seed"),
    [("m4_backbone", "efficientvit_m4", 416, 608, 204), ("m5_backbone", "efficientvit_m5", 448, 448, 205)],
)
def test_the_official_detection_maps(
    key: str, variant: str, height: int, width: int, seed: int, data_dir: Path, tmp_path: Path
) -> None:
    values = reference_values(data_dir)
    weights = write_official(tmp_path / "official.pth", data_dir, values, key)
    # The official windows let padding take part; ours do not, so that has to be asked for.
    source = json.loads(replace(variant_config(variant), mask_padding=False).to_json())
    backbone = find_backbone(source, weights=weights).double().eval()
    expected = np.load(data_dir / "reference" / f"official_{key}_{height}x{width}.npz")
    with torch.no_grad():
        maps = backbone(torch.from_numpy(values.image(1, height, width, seed=seed)))
    for features, (channels, stride) in zip(maps, backbone.output_shapes(), strict=True):
        assert features.shape[1] == channels
        # The weights went through float32.
        assert relative_error(features, torch.from_numpy(expected[f"stride{stride}"]).double()) < 1e-5


@pytest.mark.parametrize("name", list(VARIANTS))
def test_variants_have_full_windows_and_no_head(name: str) -> None:
    backbone = find_backbone(name)
    network = backbone.network
    assert network.config.windows() == (7, 7, 7)
    assert all(len(table[0]) == 49 for key, table in network.state_dict().items() if key.endswith("attention_biases"))
    assert network.config.num_classes == 0 and not any(key.startswith("head") for key in network.state_dict())
    assert [stride for _, stride in backbone.output_shapes()] == [16, 32, 64]
    assert backbone.source == name


def test_a_classifiers_weights_with_its_tables_resized(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = randomise(effvit.create_model(TINY, num_classes=5, distilled=True))
    folder = effvit.save(tmp_path / "run" / "weights", classifier)
    expected = classifier.resized(image_size=448).double().eval()
    x = torch.randn(1, 3, 96, 130).double()
    with caplog.at_level(logging.WARNING):
        found = [
            find_backbone(TINY, weights=folder),
            find_backbone(TINY, weights=folder / "model.safetensors"),
            find_backbone(str(tmp_path / "run")),
            find_backbone(classifier.config.to_dict(), weights=tmp_path / "run"),
        ]
    assert not caplog.records
    for backbone in found:
        assert backbone.source == TINY
        with torch.no_grad():
            for ours, theirs in zip(backbone.double().eval()(x), expected.features(x), strict=True):
                assert torch.equal(ours, theirs)


def test_another_networks_configuration_travels_whole(tmp_path: Path) -> None:
    config = replace(variant_config(TINY), name="mine", activation="gelu")
    folder = effvit.save(tmp_path / "weights", randomise(effvit.create_model(config)))
    backbone = find_backbone(str(folder))
    assert isinstance(backbone.source, dict) and backbone.source["activation"] == "gelu"
    again = find_backbone(json.loads(json.dumps(backbone.source)))
    assert again.network.config == backbone.network.config and again.source == backbone.source


def test_a_variants_weights_that_are_not_the_variant_any_more(tmp_path: Path) -> None:
    config = replace(variant_config(TINY), mask_padding=False)
    folder = effvit.save(tmp_path / "weights", effvit.create_model(config))
    backbone = find_backbone(TINY, weights=folder)
    assert isinstance(backbone.source, dict) and backbone.source["mask_padding"] is False


def test_stages_that_no_level_is_made_from_are_left_out(tmp_path: Path) -> None:
    base = variant_config(TINY)
    block = BlockConfig(num_heads=2, value_dim=8, ffn_dims_before=(32,), ffn_dims_after=(32,))
    step = SubsampleConfig(ffn_dim_before=64, merge_dim=64, squeeze_dim=16, ffn_dim_after=32)
    fourth = StageConfig(width=16, subsample=step, blocks=(block,))
    config = replace(base, name="four", stages=(*base.stages, fourth))
    folder = effvit.save(tmp_path / "weights", effvit.create_model(config))
    boxes, masks = find_backbone(str(folder)), find_backbone(str(folder), task="masks")
    assert [stride for _, stride in boxes.output_shapes()] == [16, 32, 64, 128]
    assert [stride for _, stride in masks.output_shapes()] == [16, 32, 64]
    assert len(masks.network.stages) == 3
    assert find_backbone(masks.source, task="masks").network.config == masks.network.config


@pytest.mark.parametrize(
    ("name", "task", "strides"),
    [
        ("timm:mobilenetv2_100", "boxes", [8, 16, 32]),
        ("timm/mobilenetv3_large_100", "boxes", [8, 16, 32]),
        ("mobilenetv2_100", "masks", [4, 8, 16, 32]),
        ("timm:mobilenetv3_large_100", "masks", [4, 8, 16, 32]),
        ("timm:mambaout_femto", "boxes", [8, 16, 32]),
    ],
)
def test_maps_of_timm(name: str, task: str, strides: list[int]) -> None:
    backbone = find_backbone(name, task=task).eval()
    assert [stride for _, stride in backbone.output_shapes()] == strides
    assert backbone.source == "timm:" + name.removeprefix("timm:").removeprefix("timm/")
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 65, 96))
    assert [tuple(x.shape) for x in maps] == [
        (1, channels, -(-65 // stride), 96 // stride) for channels, stride in backbone.output_shapes()
    ]


@pytest.mark.parametrize("num_classes", [1000, 7, 0])
def test_timm_with_the_weights_of_a_file(num_classes: int, tmp_path: Path) -> None:
    full = randomise(timm.create_model(SMALL_TIMM, num_classes=num_classes)).eval()
    save_file(full.state_dict(), tmp_path / "model.safetensors")
    backbone = find_backbone(f"timm:{SMALL_TIMM}", weights=tmp_path / "model.safetensors").eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = full.forward_intermediates(x, indices=[2, 3, 4], intermediates_only=True)
        for ours, theirs in zip(backbone(x), expected, strict=True):
            assert relative_error(ours, theirs) < 1e-5
    assert backbone.preprocessing is not None


def test_published_weights_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mobilenetv2_050"
    full = randomise(timm.create_model(name))
    save_file(full.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def fetched(repository: str) -> tuple[Path, dict[str, object]]:
        asked.append(repository)
        return tmp_path / "model.safetensors", {}

    monkeypatch.setattr("effvit.detection.timm_backbones.fetch", fetched)
    for word in ("imagenet", "pretrained"):
        backbone = find_backbone(name, weights=word)
        assert torch.equal(backbone.network.conv_stem.weight, full.conv_stem.weight)
    assert len(asked) == 2 and all(name in repository for repository in asked)


def test_what_does_not_fit_timm_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("mobilenetv2_050").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="other.safetensors does not hold weights of timm:mobilenetv2_035"):
        find_backbone(SMALL_TIMM, weights=tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no weights at .*nothing.pth: no such file"):
        find_backbone(SMALL_TIMM, weights=tmp_path / "nothing.pth")


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("own_backbones")
    module.two_maps = TwoMaps
    module.too_fine = lambda: TwoMaps(((4, 3), (6, 5)))
    module.no_promise = lambda: torch.nn.Conv2d(3, 4, 1)
    module.broken_promise = lambda: TwoMaps(((4, 8), (6, 16), (8, 32)))
    module.ours = lambda: effvit.create_model(TINY)
    monkeypatch.setitem(sys.modules, "own_backbones", module)
    return module


@pytest.mark.usefixtures("own_module")
def test_a_persons_own_function() -> None:
    backbone = find_backbone("own_backbones:two_maps")
    assert backbone.output_shapes() == [(4, 8), (6, 16)]
    assert [x.shape[2:] for x in backbone(torch.rand(1, 3, 64, 96))] == [(8, 12), (4, 6)]
    assert find_backbone("own_backbones:ours").output_shapes() == [(16, 16), (24, 32), (32, 64)]


@pytest.mark.usefixtures("own_module")
def test_a_persons_own_function_that_does_not_keep_its_word() -> None:
    with pytest.raises(ConfigError, match=r"no_promise\(\) must promise its maps by output_shapes\(\).*got None"):
        find_backbone("own_backbones:no_promise")
    with pytest.raises(ConfigError, match=r"boxes need maps of strides 8\.\.128, and this network has \[3, 5\]"):
        find_backbone("own_backbones:too_fine")
    with pytest.raises(ConfigError, match="own_backbones:broken_promise promises 3 maps and gave 2"):
        find_backbone("own_backbones:broken_promise")(torch.rand(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="weights x.pth cannot be given for own_backbones:two_maps"):
        find_backbone("own_backbones:two_maps", weights="x.pth")


def test_of_equal_strides_the_last_is_taken() -> None:
    network = TwoMaps(((4, 8), (6, 8)))
    assert Backbone(network, [(4, 8), (6, 8)], task="boxes", source="x").output_shapes() == [(6, 8)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("efficientvit_m9", "unknown backbone 'efficientvit_m9'; nearest: efficientvit_m"),
        ("timm:mobilenetv2_10", "unknown backbone 'timm:mobilenetv2_10'; nearest: .*mobilenetv2_100"),
        ("torchvision:resnet18", "unknown backbone 'torchvision:resnet18'; .*known: efficientvit_m0"),
        ("timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224 does not take pictures of any size"),
        ("nowhere.at.all:make", "cannot get nowhere.at.all:make"),
        ({"stages": 3}, "'stages' must be a list"),
    ],
)
def test_unknown_backbones(source: str | dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_backbone(source)


def test_other_misfits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task must be one of boxes, masks, got 'points'"):
        find_backbone(TINY, task="points")
    grey = replace(variant_config(TINY), in_channels=1)
    with pytest.raises(ConfigError, match="colour pictures, and efficientvit_tiny has in_channels 1"):
        find_backbone(grey.to_dict())
    folder = effvit.save(tmp_path / "weights", effvit.create_model(TINY))
    with pytest.raises(WeightsError, match="holds weights of efficientvit_tiny, not of efficientvit_m0"):
        find_backbone("efficientvit_m0", weights=folder)
    with pytest.raises(ConfigError, match="weights x cannot be given for .*weights, which has"):
        find_backbone(str(folder), weights="x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="no weights in folder .*empty"):
        find_backbone(str(tmp_path / "empty"))


def test_random_by_name_is_random() -> None:
    assert find_backbone(TINY, weights="random").preprocessing is None
