"""Drawn pictures: what is where, colours that stay, names in any script, any size; the sheet, the curves, the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_detections import bccd, coco_mini, detections, disturbed, picture_of, thing, truth
from PIL import ExifTags, Image

from effvit.data.pictures import read_picture
from effvit.detection.curves import write_curves
from effvit.detection.drawing import COLORS, draw_detections, look_for
from effvit.detection.evaluate import evaluate_detections
from effvit.detection.fonts import font_file, font_for
from effvit.detection.mistakes import find_mistakes
from effvit.detection.report import NUMBER_NAMES, write_evaluation
from effvit.detection.scores import CocoNumbers
from effvit.detection.worst import write_worst
from effvit.errors import DataError

GREY = Image.new("RGB", (640, 480), (128, 128, 128))


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[start : start + 2], 16) for start in (1, 3, 5))


def has_color(picture: Image.Image, color: str) -> bool:
    return bool((np.asarray(picture) == rgb(color)).all(axis=-1).any())


def test_box_is_where_it_was_found_in_its_class_colour() -> None:
    found = detections([[100, 200, 300, 400]], [0.9], [1])
    before = GREY.copy()
    drawn = np.asarray(draw_detections(GREY, found, ["a", "b"]))
    assert np.array_equal(np.asarray(GREY), np.asarray(before)) and drawn.shape == (480, 640, 3)
    changed = (drawn != 128).any(axis=-1)
    for place in ((300, 100), (300, 300), (200, 200), (400, 200)):  # the middle of each side
        assert tuple(drawn[place]) == rgb(COLORS[1])
    assert not changed[405:].any() and not changed[:, :95].any() and not changed[220:380, 120:280].any()
    assert changed[170:195, 100:140].any()  # the name, above
    array = draw_detections(np.asarray(GREY), found, ["a", "b"])
    assert np.array_equal(np.asarray(array), drawn)


def test_colour_is_that_of_the_class_whatever_else_is_there() -> None:
    alone = draw_detections(GREY, detections([[300, 100, 400, 300]], [0.9], [2]), list("abc"))
    among = draw_detections(
        GREY, detections([[50, 100, 150, 300], [300, 100, 400, 300]], [0.95, 0.9], [0, 2]), list("abc")
    )
    assert has_color(alone, COLORS[2]) and has_color(among, COLORS[2])
    assert has_color(among, COLORS[0]) and not has_color(alone, COLORS[0])
    many = draw_detections(GREY, detections([[300, 100, 400, 300]], [0.9], [18]), [str(n) for n in range(80)])
    assert has_color(many, COLORS[2])  # the colours begin anew


def test_mask_colours_its_pixels_alone() -> None:
    mask = torch.zeros(1, 480, 640, dtype=torch.bool)
    mask[0, 250:350, 150:250] = True
    drawn = np.asarray(draw_detections(GREY, detections([[100, 200, 300, 400]], [0.9], [0], mask), ["a"]))
    inside, outside = drawn[300, 200].astype(int), drawn[230, 280]
    assert tuple(outside) == (128, 128, 128)
    assert np.abs(inside - (0.55 * 128 + 0.45 * np.array(rgb(COLORS[0])))).max() <= 1
    with pytest.raises(DataError, match="^masks are of 630 x 480 pixels, the picture of 640 x 480$"):
        draw_detections(GREY, detections([[1, 1, 2, 2]], [0.9], [0], mask[:, :, 10:]), ["a"])


@pytest.mark.parametrize("size", [(1, 1), (30, 20), (2000, 5), (3000, 2000)])
def test_any_size_can_be_drawn_on(size: tuple[int, int]) -> None:
    width, height = size
    mask = torch.ones(1, height, width, dtype=torch.bool)
    found = detections([[0, 0, width, height]], [0.9], [0], mask)
    for with_masks in (found, detections([[0, 0, width, height]], [0.9], [0])):
        drawn = draw_detections(Image.new("RGB", size, "white"), with_masks, ["a name"])
        assert max(drawn.size) >= 320 and drawn.width * height == drawn.height * width
        assert has_color(drawn, COLORS[0])
    same = draw_detections(Image.new("RGB", size, "white"), found, ["a name"], enlarge=False)
    assert same.size == size


def test_lines_and_letters_grow_with_the_picture() -> None:
    small, vga, large = look_for(320, 240), look_for(640, 480), look_for(4000, 3000)
    assert small.text >= 10 and 12 <= vga.text <= 16 and large.text > 60
    assert small.line == 1 and vga.line == 2 and large.line > 8


def test_nothing_found_is_the_picture_itself() -> None:
    for masks in (None, torch.zeros(0, 480, 640, dtype=torch.bool), torch.zeros(0, 0, 0, dtype=torch.bool)):
        drawn = draw_detections(GREY, detections([], [], [], masks), ["a"])
        assert drawn is not GREY and np.array_equal(np.asarray(drawn), np.asarray(GREY))


def test_names_of_any_script_are_drawn() -> None:
    """Letters, not question marks; signs that turn a line around are escapes; a long name is cut."""
    names = ["собака", "عربي", "ñandú", "猫", "<b>&$x_1$", "a\u202eb\n", "x" * 60, "\ud800"]
    boxes = [[20 + 150 * (i % 4), 40 + 220 * (i // 4), 140 + 150 * (i % 4), 200 + 220 * (i // 4)] for i in range(8)]
    pictures = [
        np.asarray(draw_detections(GREY, detections([box], [0.5], [0]), [name], with_scores=False))
        for name, box in zip([*names, "?"], [*boxes, boxes[0]], strict=True)
    ]
    assert not any(np.array_equal(pictures[0], other) for other in pictures[1:])
    draw_detections(GREY, detections(boxes, [0.5] * 8, range(8)), names)
    letters, marks = (np.asarray(font_for([text], 40).getmask(text)) for text in ("собака", "??????"))
    assert letters.shape != marks.shape or not np.array_equal(letters, marks)
    assert font_file(["собака"]).is_file() and font_file([]).is_file()


def test_many_boxes_on_real_pictures_keep_their_names_in_the_picture(data_dir: Path) -> None:
    data = coco_mini(data_dir)
    picture = max(data.pictures, key=lambda entry: len(entry.things))
    drawn = draw_detections(read_picture(picture.path), truth(picture, with_masks=True), data.class_names)
    assert drawn.size == (picture.width, picture.height)


def test_sheet_shows_the_worst_and_says_when_there_is_none(data_dir: Path, tmp_path: Path) -> None:
    data = bccd(data_dir)
    pictures = data.pictures[:6]
    found = {
        image_id: entry for image_id, entry in disturbed(data, 0).items() if image_id in {p.image_id for p in pictures}
    }
    mistakes = find_mistakes(found, pictures)
    assert write_worst(tmp_path / "worst.jpg", mistakes, data.class_names, num_pictures=4) == 4
    with Image.open(tmp_path / "worst.jpg") as sheet:
        assert sheet.format == "JPEG" and sheet.width > 1500
    perfect = find_mistakes({p.image_id: truth(p) for p in pictures}, pictures)
    assert write_worst(tmp_path / "worst.jpg", perfect, data.class_names) == 0
    gone = find_mistakes({}, [picture_of(thing(0, 0, 0, 9, 9))._replace(path=tmp_path / "gone.png")])
    assert write_worst(tmp_path / "worst.jpg", gone, data.class_names) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["worst.jpg"]


def test_sheet_shows_pictures_in_the_frame_of_their_boxes(tmp_path: Path) -> None:
    """Boxes of a photo that lies on its side, made by a tool that left it so."""
    pixels = np.zeros((60, 200, 3), dtype=np.uint8)
    pixels[:, :100] = (0, 0, 255)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a viewer shows it 60 wide and 200 high
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    picture = picture_of(thing(0, 5, 5, 40, 40), size=(200, 60))._replace(path=tmp_path / "a.png")
    assert write_worst(tmp_path / "worst.jpg", find_mistakes({}, [picture]), ["cat"]) == 1
    with Image.open(tmp_path / "worst.jpg") as sheet:
        shown = np.asarray(sheet)[..., 2].astype(int) - np.asarray(sheet)[..., 0]
    rows, columns = np.nonzero(shown > 150)  # the blue half
    assert np.ptp(columns) > 1.5 * np.ptp(rows)  # 100 x 60, as it is stored; upright it would be 60 x 100


def test_curves_are_drawn_for_any_number_of_classes(data_dir: Path, tmp_path: Path) -> None:
    names, ids = [f"$x_{n}$ & _{n}" for n in range(12)], list(range(12))
    pictures = [picture_of(*(thing(n, 5 * n, 5, 5 * n + 4, 9) for n in range(12)))]
    for picked, found in ((pictures, {1: truth(pictures[0])}), (pictures, {}), ([picture_of()], {})):
        scores = evaluate_detections(found, picked, class_names=names, category_ids=ids, task="boxes")
        write_curves(tmp_path / "curves.png", scores)
        with Image.open(tmp_path / "curves.png") as chart:
            assert chart.width > 1000


@pytest.mark.parametrize("task", ["boxes", "masks"])
def test_evaluation_is_files_and_a_page_that_needs_nothing_else(data_dir: Path, tmp_path: Path, task: str) -> None:
    data = coco_mini(data_dir)
    names = ["<b>person</b>", *data.class_names[1:]]
    found = disturbed(data, 0, with_masks=task == "masks")
    arguments = {"class_names": names, "category_ids": data.category_ids, "task": task}
    scores = evaluate_detections(found, data.pictures, **arguments)
    about = {"model": "runs/<x>", "data": str(data.source)}
    summary = write_evaluation(tmp_path, scores, found, data.pictures, score=0.5, about=about)
    files = {"summary.json", "curves.json", "detections.json", "curves.png", "worst.jpg", "page.html"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary[task]["ap"] == scores.main.numbers.ap and summary["mistakes"]["score_threshold"] == 0.5
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "&lt;b&gt;person&lt;/b&gt;" in page and "<b>person" not in page
    assert f"{100 * (scores.main.numbers.ap or 0):.1f} AP" in page and 'src="http' not in page
    assert page.count('src="data:image/') == 2 and "runs/&lt;x&gt;" in page
    perfect = {picture.image_id: truth(picture, with_masks=task == "masks") for picture in data.pictures}
    scores = evaluate_detections(perfect, data.pictures, **arguments)
    write_evaluation(tmp_path, scores, perfect, data.pictures)
    assert not (tmp_path / "worst.jpg").exists() and "There is none." in (tmp_path / "page.html").read_text()


def test_page_of_nothing_says_so(tmp_path: Path) -> None:
    pictures = [picture_of()]
    scores = evaluate_detections({}, pictures, class_names=["a"], category_ids=[1], task="boxes")
    write_evaluation(tmp_path, scores, {}, pictures)
    page = (tmp_path / "page.html").read_text()
    assert "No AP" in page and "0 of 0 things are found, and 0 of 0 detections are right" in page and "nan" not in page


def test_numbers_are_called_as_coco_calls_them() -> None:
    assert list(NUMBER_NAMES) == list(CocoNumbers.__dataclass_fields__)
