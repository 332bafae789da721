"""What is said of a measurement is what was measured, with its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effvit.analysis.heads.report import HeadsEntry, block_label, heads_report, mean_similarity
from effvit.analysis.heads.similarity import BlockSimilarity, HeadSimilarity
from effvit.analysis.report import as_text, write_report


def block(similarity: float | None, **changes: Any) -> BlockSimilarity:
    values: dict[str, Any] = {
        "name": "blocks.0.attn",
        "num_heads": 3,
        "map_shape": (49, 49),
        "windows_per_picture": 4.0,
        "similarity": similarity,
        "standard_error": 0.01,
        "correlation": 0.25,
        "flatness": 0.5,
        "per_head": (),
        "pairs": (),
        "num_windows": 8,
        "num_left_out": 0,
    }
    return BlockSimilarity(**{**values, **changes})


def entry(*blocks: BlockSimilarity, **changes: Any) -> HeadsEntry:
    similarity = HeadSimilarity(blocks=blocks, num_pictures=2, unread=changes.pop("unread", {}))
    return HeadsEntry(**{"label": "deit", "weights": "pretrained", "similarity": similarity, **changes})


def said(*entries: HeadsEntry) -> str:
    return "\n".join(heads_report(entries, data="photos", command="effvit analyze heads").findings)


def test_numbers_are_those_measured() -> None:
    report = heads_report(
        [entry(block(0.61234), block(0.8, correlation=0.35), block(None, num_heads=1, correlation=None))],
        data="photos",
        command="effvit analyze heads deit",
    )
    (table,) = report.tables
    assert table.rows[0] == ("1", "blocks.0", "3", "49 x 49", "4", "0.6123", "0.0100", "0.2500", "0.5000")
    assert table.rows[2][5] == table.rows[2][7] == "-"
    text = "\n".join(report.findings)
    assert "deit: similarity 0.706 on average over 2 blocks, from 0.612 (block 1) to 0.800 (block 2)." in text
    assert "(0.500 on average) would be alike by about 0.250" in text and "their correlation is 0.300" in text
    assert "block 3 has a single head" in text and "RANDOM" not in text
    assert report.findings[-1].startswith("Paper, Fig. 4")
    record = json.loads(json.dumps(report.record))
    assert record["models"][0]["blocks"][0]["similarity"] == 0.61234
    assert record["command"] == "effvit analyze heads deit" and record["environment"]


def test_a_variant_is_compared_with_its_own_network() -> None:
    text = said(
        entry(block(0.5)),
        entry(block(0.9), label="swin"),
        entry(block(0.7), label="swin", variant="head splits"),
    )
    assert "swin, head splits: -0.200 against swin (0.900 to 0.700). The weights were trained without this" in text
    fresh = said(entry(block(0.5), weights="random"), entry(block(0.5), weights="random", variant="head splits"))
    assert "+0.000 against deit (0.500 to 0.500)." in fresh and "trained without" not in fresh
    assert fresh.startswith("The weights of deit are RANDOM")


def test_limits_are_said() -> None:
    single_key = block(None, num_windows=0, num_left_out=8, flatness=None)
    text = said(
        entry(
            block(0.5, num_left_out=2),
            single_key,
            block(None, num_heads=1),
            block(None, num_heads=1),
            unread={"a: odd": 1, "b: odd": 2, "c: odd": 2},
        )
    )
    assert "block 2 has maps of a single key" in text
    assert "2 windows with a single token" in text
    assert "blocks 3, 4 have a single head" in text
    assert "not read as attention: a: odd; b: odd and 1 more." in text
    one = said(entry(block(0.5, num_left_out=1)))
    assert "on average over 1 block, from" in one and "left out: 1 window with a single token" in one
    alone = said(entry(block(None, num_heads=1), variant="", label="x"))
    assert "on average" not in alone


def test_written(tmp_path: Path) -> None:
    entries = [entry(block(0.5), block(None)), entry(block(0.6), variant="head splits", weights="random")]
    report = heads_report(entries, data="photos", command="", notes=["A note."])
    assert write_report(report, tmp_path) == ["record.json", "report.md", "similarity.png", "page.html"]
    assert "A note." in as_text(report) and "Fig. 4" in (tmp_path / "page.html").read_text()
    assert [bool(table.caption) for table in report.tables] == [False, True]
    assert mean_similarity(entries[0].similarity) == 0.5


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("stages.2.3.attention.body.mixer", "stages.2.3"),
        ("blocks.0.attn#2", "blocks.0#2"),
        ("encoder.layers.encoder_layer_0.self_attention", "encoder.layers.encoder_layer_0"),
        ("attn", "attn"),
        ("", ""),
    ],
)
def test_places_have_short_names(name: str, label: str) -> None:
    assert block_label(name) == label
