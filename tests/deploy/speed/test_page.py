"""The page: self-contained, well-formed, and what it shows is what the record says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from benchmark_records import full_record, record, row, timing

from effvit.deploy.speed.charts import accuracy_against_speed, breakdown, dots, pareto_front, short_name
from effvit.deploy.speed.page import charts, page, write_report
from effvit.deploy.speed.records import Record
from effvit.errors import RunError

_VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags match, and notes what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe", "object"):
            self.loads.append(tag)
        # A reference within the page is none to elsewhere.
        self.loads += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def full() -> Record:
    return full_record()


@pytest.fixture(scope="module")
def html(full: Record) -> str:
    return page(full)


def test_the_page_is_whole_and_loads_nothing(html: str) -> None:
    reader = Reader()
    reader.feed(html)
    assert not reader.open and not reader.loads
    assert "url(http" not in html and "@import" not in html and "<script" not in html
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)


def test_texts_of_others_stay_texts(html: str) -> None:
    assert "some <model>" not in html and "some &lt;model&gt;" in html
    assert "no <such>" not in html and "effvit benchmark &lt;models&gt;" in html


def test_every_row_and_everything_that_must_be_known_is_there(html: str, full: Record) -> None:
    reader = Reader()
    reader.feed(html)
    text = " ".join(" ".join(reader.texts).split())
    assert html.count("<tr class=") == len(full.rows)
    assert "A Processor" in text and "commit 0123456789 with changes" in text and "torch 2.15.0" in text
    assert "odd in openvino, int8, batch 1: no <such> operator" in text
    assert "results-imagenet.csv" in text  # where an accuracy comes from
    assert "batch 1: 1.020" in text


def test_charts_are_drawn_where_there_is_a_choice(full: Record) -> None:
    titles = [chart.title for chart in charts(full)]
    assert titles == [
        "Speed against accuracy: torch, fp32",
        "Speed against accuracy: onnxruntime, fp32",
        "Latency by batch: torch, fp32",
        "Latency by batch: onnxruntime, fp32",
        "Latency by batch: onnxruntime, int8",
        "Latency by runtime: batch 1, fp32",
        "Latency by runtime: batch 16, fp32",
        "Latency by precision: batch 1, onnxruntime",
        "Latency by precision: batch 16, onnxruntime",
        "Where the time goes",
    ]
    assert not list(charts(record(row("a", 1), row("b", 1))))
    assert "<svg" not in page(record(row("a", 1)))


def test_the_front_is_what_nobody_beats_in_both() -> None:
    points = [(1.0, 9.0), (2.0, 8.0), (2.0, 7.0), (3.0, 8.0), (0.5, 9.0), (4.0, 1.0)]
    assert pareto_front(points) == [5, 3, 0]
    beaten = set(range(len(points))) - set(pareto_front(points))
    for index in beaten:
        assert any(o != points[index] and o[0] >= points[index][0] and o[1] >= points[index][1] for o in points)
    assert pareto_front([]) == []


def test_a_point_stands_where_the_record_says() -> None:
    rows = [row("efficientvit_m0", 16, top1=63.3, timing=timing(8, 8, 8)), row("x", 16, top1=70.0)]
    (panel,) = accuracy_against_speed(rows).axes
    assert panel.collections[0].get_offsets().tolist() == [[2000.0, 63.3]]
    assert {text.get_text() for text in panel.texts} == {"M0", "x"}


def test_dots_are_per_picture() -> None:
    (panel,) = dots([row("a", 16, timing=timing(32, 32, 32))], lambda r: r.runtime, label="runtime").axes
    values = {tuple(line.get_xdata()) for line in panel.lines}
    assert (2.0,) in values and (2.0, 2.0) in values


def test_shares_add_up_to_the_bar(full: Record) -> None:
    (panel,) = breakdown(full.shares).axes
    assert sum(patch.get_width() for patch in panel.patches) == pytest.approx(100)


def test_names_are_short_and_still_tell_ours_from_timms() -> None:
    names = ["efficientvit_m0", "timm/efficientvit_m0", "timm/efficientvit_m0@plain", "timm/resnet18", "resnet18"]
    assert [short_name(name) for name in names] == ["M0", "timm's M0", "timm's M0@plain", "resnet18", "resnet18"]


def test_a_report_is_four_files(full: Record, tmp_path: Path) -> None:
    names = write_report(full, tmp_path)
    assert set(names) == {path.name for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=r"cannot write .*record\.json"):
        write_report(full, tmp_path / "missing")
