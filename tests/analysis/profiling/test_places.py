"""Stages and blocks, found in the names of modules as four libraries give them."""

from __future__ import annotations

import pytest
from profiles import model, operator

from effvit.analysis.profiling.places import ELSEWHERE, blocks, stages

OURS = ["stem.0.conv", "stem.0.norm", "stages.0.0.before.0.conv", "stages.0.1.before.0.conv", "stages.1.0.x.y", "head"]
SWIN = ["patch_embed.proj", "layers.0.blocks.0.attn.qkv", "layers.0.blocks.1.mlp.fc1", "layers.1.downsample.norm"]
DEIT = ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.1.mlp.fc1", "norm"]
MOBILENET = ["conv_stem", "blocks.0.0.conv_dw.x", "blocks.1.0.se.conv", "blocks.1.1.se.conv", "classifier"]


@pytest.mark.parametrize(
    ("names", "expected_stages", "expected_blocks"),
    [
        (OURS, ["stem", "stages.0", "stages.1", "head"], ["stem", "stages.0.0", "stages.0.1", "stages.1.0", "head"]),
        (
            SWIN,
            ["patch_embed", "layers.0", "layers.1"],
            ["patch_embed", "layers.0.blocks.0", "layers.0.blocks.1", "layers.1"],
        ),
        (DEIT, ["patch_embed", "blocks.0", "blocks.1", "norm"], ["patch_embed", "blocks.0", "blocks.1", "norm"]),
        (
            MOBILENET,
            ["conv_stem", "blocks.0", "blocks.1", "classifier"],
            ["conv_stem", "blocks.0.0", "blocks.1.0", "blocks.1.1", "classifier"],
        ),
    ],
)
def test_a_network_falls_into_its_parts(
    names: list[str], expected_stages: list[str], expected_blocks: list[str]
) -> None:
    one = model(*(operator("linear", 1, module=name) for name in names))
    assert list(stages(one)) == expected_stages
    assert list(blocks(one)) == expected_blocks
    for rows in (stages(one), blocks(one)):
        assert sum(len(group) for group in rows.values()) == len(names)


def test_what_a_network_does_itself_is_not_lost() -> None:
    one = model(operator("linear", 1, module="stages.0.0.conv.x"), operator("other", 1, module=""))
    assert [len(group) for group in stages(one).values()] == [1, 1] and ELSEWHERE in stages(one)


def test_a_network_without_parts_has_one_row() -> None:
    assert list(stages(model(operator("linear", 1, module="")))) == [ELSEWHERE]
