from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ablation_studies import a_study

from effvit.analysis.ablations import TABLE6
from effvit.analysis.report import Table, as_text, write_report
from effvit.studies.ablation import AblationStudy
from effvit.studies.ablation_charts import draw_figure7, draw_table6
from effvit.studies.ablation_report import ablation_report

PLAIN = {"1": {0: 0.5, 1: 0.52}, "2": {0: 0.2, 1: 0.24}, "5": {0: 0.5, 1: 0.53}, "qk8": {0: 0.6, 1: 0.64}}
RESCALED = {"2": (120, {0: 0.3, 1: 0.32}), "qk8": (101, {0: 0.51, 1: 0.52})}
SPEEDS = {
    "efficientvit_m4-1": (1.0, 1.0, True),
    "efficientvit_m4-2": (1.3, 1.2, True),
    "efficientvit_m4-2-120": (1.02, 0.9, True),
    "efficientvit_m4-5": (1.1, 1.15, False),
    "efficientvit_m4-qk8": (1.05, 1.0, True),
}


@pytest.fixture(scope="module")
def study() -> AblationStudy:
    refused = {"5": "no width has this speed"}
    return a_study(PLAIN, RESCALED, speeds=SPEEDS, refused=refused, num_val=1000)


def cells(table: Table, row: str, change: str = "") -> dict[str, str]:
    found = [cells for cells in table.rows if cells[0] == row and (not change or cells[1] == change)]
    return {f"{index} {column}": cell for index, (column, cell) in enumerate(zip(table.columns, found[0], strict=True))}


def test_accuracy_stands_beside_the_papers(study: AblationStudy) -> None:
    table = ablation_report(study).tables[0]
    assert [row[0] for row in table.rows] == ["1", "2", "5", "qk8"]
    assert list(cells(table, "1").values())[2:] == ["51.0 ± 1.4", "", "", "", "71.3", ""]
    assert list(cells(table, "2").values())[2:] == ["22.0 ± 2.8", "-29.0", "31.0 ± 1.4", "-20.0", "68.3", "-3.0"]
    assert list(cells(table, "5").values())[2:] == ["51.5 ± 2.1", "+0.5", "", "", "70.2", "-1.1"]


def test_cost_and_speed_stand_beside_the_papers(study: AblationStudy) -> None:
    table = ablation_report(study).tables[1]
    assert len(table.rows) == len(study.versions) == 6
    scaled = cells(table, "2", "Swin block for the sandwich, rescaled")
    assert list(scaled.values())[2:] == [
        *("152 308 460", "120.00", "1200.0", "102", "1.02", "90", "0.90", "0.99", "1.05"),
    ]
    assert list(cells(table, "5").values())[7:9] == ["115 *", "1.15"]  # not in the deploy form
    assert list(cells(table, "qk8", "Q/K width 8, rescaled").values())[5:] == [""] * 6  # not measured, not reported
    assert "* where it does not know the row" in table.caption


def test_findings_say_what_is_clear_and_what_is_not(study: AblationStudy) -> None:
    text = "\n".join(ablation_report(study).findings)
    # Sampling: 100 sqrt(2 x .51 x .49 / 1000) = 2.24; the means of the differences have a standard error of .71.
    assert "Row 1 reaches 51.0% (± 1.4 between seeds). Differences up to 4.6 points can be chance" in text
    assert "at most 2.2 from the choice of the pictures, 0.7 from the spread between seeds" in text
    assert "At the base's speed 1 of 2 rows differs by more than chance does: 2 (Swin block for the" in text
    assert "(Swin block for the sandwich) -20.0; 1 of 1 in the direction the paper reports" in text
    assert "At the base's widths 2 of 3 rows differ by more than chance does: 2 (Swin block for the sandwich)" in text
    assert " -29.0, qk8 (Q/K width 8) +11.0; 1 of 2 in the direction the paper reports" in text
    assert "run at 1.05 (row qk8) to 1.30 (row 2) times its speed in torch" in text
    assert "2 rows were brought to the base's speed by width; the furthest from it was off by 1.0%" in text
    assert "measured beside all others, row 2 is, at 1.020." in text
    assert "Row 5 could not be brought to the base's speed: no width has this speed." in text
    assert "a network sees 150 pictures in all" in text
    assert "maps of 4 x 4, 2 x 2, 1 x 1, none of which is cut into windows" in text
    assert "rank correlation" not in text  # three rows have no order worth telling


def test_one_seed_is_told_as_one() -> None:
    text = as_text(ablation_report(a_study({"1": {0: 0.5}, "5": {0: 0.5}})))
    assert "with one seed, the spread between trainings is not known and comes on top" in text
    assert "At the base's widths the one row does not differ by more than chance does." in text
    assert "seed 0\n" in text or "seed 0;" in text
    assert "±" not in text


def test_one_row_is_told_as_one() -> None:
    speeds = {name: SPEEDS[name] for name in ("efficientvit_m4-1", "efficientvit_m4-2", "efficientvit_m4-2-120")}
    study = a_study({"1": {0: 0.5}, "2": {0: 0.1}}, {"2": (120, {0: 0.5})}, speeds=speeds, num_val=1000)
    text = "\n".join(ablation_report(study).findings)
    assert "At the base's widths the one row differs by more than chance does: 2 (" in text
    assert "1 of 1 in the direction the paper reports" in text
    assert "At the base's widths the row runs at 1.30 (row 2) times its speed in torch" in text
    assert "1 row was brought to the base's speed by width; it was off by 1.0% when its widths were found" in text
    assert "measured beside all others, it runs at 1.020." in text


def test_the_order_is_compared_with_the_papers() -> None:
    same = {row.key: {0: 0.5 + row.reported_points / 100} for row in TABLE6}
    scaled = {row.key: (110, {0: 0.5 - row.reported_points / 100}) for row in TABLE6[1:]}
    text = as_text(ablation_report(a_study(same, scaled)))
    assert "At the base's widths the rows' order agrees with the paper's by a rank correlation of +1.00" in text
    assert "At the base's speed the rows' order agrees with the paper's by a rank correlation of -1.00" in text
    assert "(1: the same order, 0: none; 10 rows)" in text


def test_a_failed_training_is_told() -> None:
    report = ablation_report(a_study({"1": {0: 0.5}, "10": {0: None}}))
    assert "The training of row10 with seed 0 failed: the loss is nan at epoch 1." in report.findings
    assert cells(report.tables[0], "10")["2 top-1 %"] == "failed"


def test_without_pictures() -> None:
    report = ablation_report(a_study({"1": {}, "2": {}}, speeds=SPEEDS))
    assert report.findings[0] == ("Nothing was trained: accuracy needs pictures.")
    assert [table.title for table in report.tables] == ["Cost and speed"]
    assert [chart.name for chart in report.charts] == ["table6"]


def test_everything_is_written(study: AblationStudy, tmp_path: Path) -> None:
    names = write_report(ablation_report(study), tmp_path)
    assert names == ["record.json", "report.md", "table6.png", "figure7.png", "page.html"]
    assert "rescaled" in (tmp_path / "page.html").read_text()


def test_the_dots_are_the_numbers(study: AblationStudy) -> None:
    accuracy, eager, onnx = draw_table6(study).axes
    theirs, plain, scaled = accuracy.lines[1:]
    assert list(theirs.get_xdata()) == pytest.approx([-3.0, -1.1, -0.46])
    assert list(plain.get_xdata()) == pytest.approx([-29.0, 0.5, 11.0])
    assert list(scaled.get_xdata()) == pytest.approx([-20.0, 0.5])
    assert list(scaled.get_ydata()) == [0, -2]
    assert list(eager.lines[2].get_xdata()) == pytest.approx([1.3, 1.1, 1.05])
    assert list(onnx.lines[3].get_xdata()) == pytest.approx([0.9])
    (panel,) = draw_figure7(study).axes
    assert list(panel.lines[1].get_xdata()) == [8, 16]
    assert list(panel.lines[1].get_ydata()) == pytest.approx([11.0, 0.0])


def test_without_speeds_there_are_no_columns_for_them(study: AblationStudy) -> None:
    table = ablation_report(replace(study, speeds=None)).tables[1]
    assert (table.title, table.columns[-1]) == ("Cost", "MACs M")
    assert {len(row) for row in table.rows} == {5}


def test_only_speeds_or_only_accuracies_are_drawn(study: AblationStudy) -> None:
    assert len(draw_table6(replace(study, speeds=None)).axes) == 1
    assert len(draw_table6(replace(study, budget=None)).axes) == 2
