"""Configurations: checked when made, equal after JSON, all faults in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effvit.errors import ConfigError
from effvit.model.config import EfficientViTConfig
from effvit.model.variants import VARIANTS, family_config, list_variants, variant_config


@pytest.mark.parametrize("name", VARIANTS)
def test_json_round_trip(name: str) -> None:
    config = VARIANTS[name]
    assert EfficientViTConfig.from_json(config.to_json()) == config


@given(
    widths=st.lists(st.sampled_from([24, 48, 96]), min_size=1, max_size=4),
    heads=st.sampled_from([0, 1, 2, 3]),
    mixer=st.sampled_from(["cascaded", "grouped", "mhsa"]),
    layout=st.sampled_from(["sandwich", "swin"]),
    num_ffns=st.integers(1, 3),
    key_dim=st.sampled_from([None, 4, 16]),
)
def test_json_round_trip_of_any_network(widths, heads, mixer, layout, num_ffns, key_dim) -> None:
    config = family_config(
        "any",
        widths=widths,
        depths=[1] * len(widths),
        num_heads=[heads] * len(widths),
        query_kernels=(5, 3, 3),
        mixer=mixer,
        layout=layout,
        num_ffns=num_ffns,
        key_dim=key_dim,
    )
    assert EfficientViTConfig.from_json(config.to_json()) == config


def test_all_faults_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        replace(VARIANTS["efficientvit_m0"], num_classes=-1, drop_path=1.5, norm="group", image_size=(16, 224))
    message = str(caught.value)
    assert "\n" not in message
    for fault in (
        "num_classes must be a whole number, 0 or more, got -1",
        "drop_path must be in [0, 1), got 1.5",
        "'group'",
        "from 32",
    ):
        assert fault in message


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"stages": []}, "stages must not be empty"),
        ({"stem_widths": [1, 2, 4]}, "stem_widths must have four entries"),
        ({"stem_widths": [8, 16, 32, 99]}, "the stem ends with 99 channels but stage 0 has width 64"),
        ({"colour": "red"}, "EfficientViTConfig has no colour"),
        ({"stages": 3}, "'stages' must be a list"),
        ({"activation": "tanh"}, "activation must be one of relu, hard_swish, gelu, silu, got 'tanh'"),
    ],
)
def test_faults(change: dict[str, object], fault: str) -> None:
    values = json.loads(VARIANTS["efficientvit_m0"].to_json())
    with pytest.raises(ConfigError, match=fault.replace("[", r"\[")):
        EfficientViTConfig.from_dict({**values, **change})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"num_heads": 3}, "stage 0: block 0: width must be a multiple of num_heads"),
        ({"query_kernels": [5, 5]}, "query_kernels must be empty or one per head"),
        ({"query_kernels": [5, 5, 4, 3]}, "query_kernels must be odd"),
        ({"key_dim": 0}, "key_dim must be positive, got 0"),
        ({"mixer": "linear"}, "mixer must be one of cascaded, grouped, mhsa, got 'linear'"),
        ({"ffn_dims_after": [0]}, "ffn_dims_after must be positive, got 0"),
        ({"num_heads": -1}, "num_heads must be positive, got -1"),
        ({"num_heads": False}, "num_heads must be a whole number, got False"),
        (
            {"num_heads": 0},
            r"block 0: a block without heads has value_dim 0 and no query_kernels, got 16 and \(5, 5, 5",
        ),
        ({"num_heads": 0, "value_dim": 0}, r"no query_kernels, got 0 and \(5, 5, 5, 5\)"),
        (
            {"num_heads": 0, "value_dim": 0, "query_kernels": [], "ffn_dims_before": [], "ffn_dims_after": []},
            "a block without heads needs a feed-forward layer, got none",
        ),
    ],
)
def test_faults_of_a_block(change: dict[str, object], fault: str) -> None:
    values = json.loads(VARIANTS["efficientvit_m0"].to_json())
    values["stages"][0]["blocks"][0].update(change)
    with pytest.raises(ConfigError, match=fault):
        EfficientViTConfig.from_dict(values)


def test_damaged_json() -> None:
    with pytest.raises(ConfigError, match="not valid JSON"):
        EfficientViTConfig.from_json("{")


@pytest.mark.parametrize(
    ("image_size", "maps", "windows"),
    [
        ((224, 224), ((14, 14), (7, 7), (4, 4)), (7, 7, 4)),
        ((448, 448), ((28, 28), (14, 14), (7, 7)), (7, 7, 7)),
        ((64, 64), ((4, 4), (2, 2), (1, 1)), (4, 2, 1)),
        ((416, 608), ((26, 38), (13, 19), (7, 10)), (7, 7, 7)),
        ((33, 250), ((3, 16), (2, 8), (1, 4)), (7, 7, 4)),
    ],
)
def test_windows_are_the_smaller_of_window_and_map(image_size, maps, windows) -> None:
    config = replace(VARIANTS["efficientvit_m0"], image_size=image_size)
    assert config.map_sizes() == maps
    assert config.windows() == windows


def test_unknown_variant_names_the_nearest_and_takes_none() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'efficientvit_m9' \(did you mean 'efficientvit_m\d'\?\)"):
        variant_config("efficientvit_m9")


def test_list() -> None:
    assert list_variants() == [f"efficientvit_m{size}" for size in range(6)] + ["efficientvit_tiny"]
