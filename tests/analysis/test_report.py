"""A report is the same on the terminal, in its files and on the page, and nothing in a name can break either."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from effvit.analysis.page import page
from effvit.analysis.report import Chart, Report, Table, as_text, write_report

HOSTILE = "<script>alert(1)</script> a|b"


def draw() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2], [3, 4])
    return figure


@pytest.fixture
def report() -> Report:
    return Report(
        kind="profile",
        title="A title",
        conditions="on some machine",
        findings=(f"found {HOSTILE} in `a.b<c>`",),
        tables=(Table(title="Numbers", columns=("name", "ms"), rows=((HOSTILE, "1.25"), ("x", "10"))),),
        charts=(
            Chart(name="lines", title="Lines", caption="read it so", draw=draw),
            Chart(name="photos", title="Photos", caption="", draw=draw, is_picture=True),
        ),
        record={"analysis": "profile", "command": "effvit x", "environment": {"cpu": "Z", "versions": {"torch": "2"}}},
    )


def test_files_hold_what_the_report_says(report: Report, tmp_path: Path) -> None:
    names = write_report(report, tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "record.json").read_text()) == report.record
    for name in ("lines.png", "photos.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 100
    assert (tmp_path / "report.md").read_text().startswith("# A title\n")


def test_markdown_columns_line_up_and_bars_in_names_are_escaped(report: Report) -> None:
    lines = [line for line in as_text(report).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert lines[2].endswith(r"a\|b | 1.25 |") and lines[3].endswith(" |   10 |")


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(report: Report) -> None:
    html = page(report)
    seen = Seen()
    seen.feed(html)
    assert "script" not in seen.tags and "svg" in seen.tags and seen.tags.count("img") == 1
    assert all(link.startswith(("data:", "#")) for link in seen.links)
    for text in ("A title", "on some machine", "1.25", "effvit x", "torch 2", "read it so"):
        assert text in html
    assert "<code>a.b&lt;c&gt;</code>" in html
