"""The report: tables that add up, pictures that can be drawn, and a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from profiles import model, operator, profile

from effvit.analysis.profiling.records import Profile, short
from effvit.analysis.profiling.report import PUBLISHED_PRODUCT_SHARES, profile_report
from effvit.analysis.report import Report, Table, as_text, write_report
from effvit.timing import Timing


@pytest.fixture
def measured() -> Profile:
    product = operator("linear", 6, module="blocks.0.attn.qkv", num_macs=600_000_000, bytes_moved=1_000_000)
    head = operator("attention_products", 1, module="a.mixer", head="a.mixer head 0", num_macs=100, bytes_moved=100)
    copies = operator("copies", 3, name="aten::clone", module="blocks.1.attn", bytes_moved=3_000_000)
    theirs = model(product, copies, operator("other", 1, name="mine::odd"), between_ms=2, label="timm:swin_tiny_x")
    return profile(theirs, model(product, head, operator("norms", 1), label="efficientvit_m0", is_ours=True))


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows]


def titled(report: Report, title: str) -> Table:
    (table,) = [table for table in report.tables if table.title == title]
    return table


def test_classes_add_up_to_a_hundred_and_the_paper_stands_beside(measured: Profile) -> None:
    table = titled(profile_report(measured), "Time by class of operators")
    start, end = table.columns.index("ms") + 1, table.columns.index("memory-bound classes %")
    for row in table.rows:
        assert sum(map(float, row[start:end])) == pytest.approx(100, abs=0.3)
    assert column(table, "paper's products %") == [str(PUBLISHED_PRODUCT_SHARES["swin_tiny"]), ""]
    assert column(table, "memory-bound classes %") == ["30.0", "0.0"]
    assert column(table, "below the ridge %") == ["40.0", "25.0"]
    assert column(table, "no operator %") == ["16.7", "0.0"]
    assert "Of no class: mine::odd." in table.caption


def test_causes_add_up_to_a_hundred(measured: Profile) -> None:
    table = titled(profile_report(measured), "What the time is spent on")
    for index in (1, 2):
        assert sum(float(row[index]) for row in table.rows) == pytest.approx(100, abs=0.3)


def test_only_models_with_heads_have_a_table_of_them(measured: Profile) -> None:
    titles = [table.title for table in profile_report(measured).tables]
    assert [title for title in titles if title.startswith("Heads")] == ["Heads of efficientvit_m0"]


@pytest.mark.parametrize(("mixer", "around"), [("b.attention.mixer", "b.attention"), ("layers.1", "layers.2")])
def test_heads_stand_beside_the_whole_of_their_attention(mixer: str, around: str) -> None:
    """The windows around a mixer are of the attention; the other members of a list are not."""
    heads = [operator("attention_products", ms, module=mixer, head=f"{mixer} head {ms}") for ms in (1, 2)]
    inside = operator("pointwise", 4, module=f"{mixer}.project")
    one = model(*heads, inside, operator("copies", 8, module=around), operator("linear", 16, module="head"))
    (row,) = titled(profile_report(profile(one)), "Heads of some").rows
    assert row == (mixer, "1", "2", "15" if around == "b.attention" else "7")


def test_everything_is_written_and_nothing_else(measured: Profile, tmp_path: Path) -> None:
    report = profile_report(measured, command="effvit profile it")
    names = write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert {"record.json", "report.md", "shares.png", "roofline.png", "blocks-1.png", "blocks-2.png"} <= set(names)
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["analysis"], record["command"]) == ("profile", "effvit profile it")
    assert record["models"][0]["published_product_share"] == 44.9
    assert record["models"][0]["stages"]["blocks.1"]["ms"] == pytest.approx(3)
    assert len(record["findings"]) == 6 and record["environment"]["versions"]["torch"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4 and "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3", "")


def test_a_compiled_profile_says_what_it_cannot_know() -> None:
    report = profile_report(profile(model(operator("linear", 1, module=""), is_compiled=True)))
    assert "compiled by torch.compile" in report.conditions
    assert not any("by stage" in table.title for table in report.tables)
    assert [chart.name for chart in report.charts] == ["shares", "roofline"]


def test_a_busy_machine_is_said() -> None:
    quiet = model(operator("linear", 10))
    busy = Timing(samples_ms=(10.0,), cpu_samples_ms=(4.0,), calls_per_round=1, stable=True)
    said = "wall time is up to 2.5 times the processor time"
    assert said in profile_report(profile(model(operator("linear", 10), timing=busy))).conditions
    assert "busy" not in profile_report(profile(quiet)).conditions


def test_a_report_can_be_read_in_a_terminal(measured: Profile) -> None:
    text = as_text(profile_report(measured))
    assert "timm:swin_tiny_x, most: 50% of the time (6 of 12 ms) goes to linear layers" in text


@pytest.mark.parametrize(
    ("label", "expected"), [("timm:a_b", "a_b"), ("timm/a_b", "a_b"), ("mine:f", "f"), ("m0", "m0")]
)
def test_labels_are_short_in_pictures(label: str, expected: str) -> None:
    assert short(label) == expected


def test_two_models_of_one_short_name_keep_their_labels() -> None:
    labels = ("efficientvit_m0", "timm:efficientvit_m0", "timm:resnet18")
    report = profile_report(profile(*(model(operator("linear", 1), label=label) for label in labels)))
    names = ["efficientvit_m0", "timm:efficientvit_m0", "resnet18"]
    assert column(titled(report, "Time by class of operators"), "model") == names
    assert list(titled(report, "What the time is spent on").columns[1:]) == names


def test_a_network_that_multiplies_nothing_has_a_report() -> None:
    pooling = operator("other", 1, name="aten::max_pool2d", bytes_moved=100)
    report = profile_report(profile(model(pooling, num_macs=0)))
    assert column(titled(report, "some by stage"), "% of the MACs") == ["0.0"]
    for chart in report.charts:
        chart.draw()


def test_products_that_nobody_counted_are_not_said_to_wait_for_memory() -> None:
    table = titled(
        profile_report(profile(model(operator("products", 3), operator("copies", 1)))), "Time by class of operators"
    )
    assert column(table, "below the ridge %") == ["25.0"]
    known = operator("linear", 3, num_macs=300)
    table = titled(profile_report(profile(model(known), model(known, num_macs=400, label="b"))), table.title)
    assert table.caption.endswith(" In kernels that nobody counted: 25.0 % of the MACs of b.")
