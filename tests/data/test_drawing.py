from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from effvit.data.drawing import MAX_NAME_LENGTH, save_figure, shorten


def test_a_name_is_cut_and_stays_in_its_line() -> None:
    assert shorten("x" * MAX_NAME_LENGTH) == "x" * MAX_NAME_LENGTH
    assert shorten("x" * 100) == "x" * (MAX_NAME_LENGTH - 1) + "…"
    assert shorten("a\nb\u202e") == r"a\nb\u202e"


def test_texts_of_a_figure_have_no_signs_that_turn_them_around(tmp_path: Path) -> None:
    figure = Figure(figsize=(1, 1))
    caption = figure.text(0, 0, "true: a\n\u202egpj.exe\x1b", parse_math=False)
    save_figure(figure, tmp_path / "figure.png", dpi=50)
    assert caption.get_text() == "true: a\n\\u202egpj.exe\\x1b"
