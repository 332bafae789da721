from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import coco, image, thing, write_coco
from command_line import one_line, result

from effvit.cli.main import run


def test_check_shows_findings_and_leaves_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_coco(tmp_path / "pictures", coco(annotations=[thing(1, 1), thing(2, 2, bbox=[50, 0, 9, 9])]))
    arguments = ["data", "check", str(source)]
    assert run([*arguments, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "annotation 2 is left out" in printed.out and "contact_sheet.png" in printed.err
    assert "0 missing, 0 unreadable, 0 of another size than the file says, 0 near-empty, 0 groups" in printed.out
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 1000
    written = json.loads((tmp_path / "out" / "check.json").read_text())
    assert result(arguments, capsys) == written
    assert written["num_left_out"] == 1 and written["source"] == str(source)
    assert run([*arguments, "--strict"]) == 0


def test_pictures_lie_in_a_folder_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_coco(tmp_path / "json", pictures=False)
    write_coco(tmp_path / "pictures")
    arguments = ["data", "check", str(source)]
    message = one_line(arguments, capsys)
    assert f"none of its 2 pictures is in {source.parent}, name their folder (--images): 1.png, 2.png" in message
    values = result([*arguments, "--images", str(tmp_path / "pictures")], capsys)
    assert values["root"] == str(tmp_path / "pictures") and values["num_things"] == 2


@pytest.mark.parametrize("fault", ["missing", "unreadable", "mismatched", "obstacle"])
def test_strict_leaves_with_2_on_what_spoils_a_training(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_coco(tmp_path, coco([*map(image, range(4))], [thing(1, 1)]))
    assert run(["data", "check", str(source), "--strict"]) == 0
    if fault == "missing":
        (tmp_path / "2.png").unlink()
    elif fault == "unreadable":
        (tmp_path / "2.png").write_text("not a picture")
    elif fault == "mismatched":
        write_coco(tmp_path, coco([image(2, height=20)]))
        source = write_coco(tmp_path, coco([*map(image, range(4))], [thing(1, 1)]), pictures=False)
    else:
        source = write_coco(tmp_path, coco([*map(image, range(4))], []))
    capsys.readouterr()
    assert run(["data", "check", str(source), "--strict"]) == 2
    printed = capsys.readouterr()
    assert printed.err == "" and ("a training would stop: " in printed.out) == (fault == "obstacle")
    assert run(["data", "check", str(source)]) == 0


def test_names_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "[bold]red\x1b[31m\u202e"
    document = coco([image(1), image(2)], [thing(1, 1), thing(2, 2)], [{"id": 1, "name": evil}])
    document["images"][1]["file_name"] = f"{evil}.png"
    source = write_coco(tmp_path, document)
    (tmp_path / f"{evil}.png").write_text("not a picture")
    assert run(["data", "check", str(source)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\u202e" not in printed and printed.count(r"[bold]red\x1b[31m\u202e") >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "error: no such COCO file: nowhere.json"),
        (
            ["nowhere", "--images", "x"],
            "error: --images is the folder of a COCO file's pictures, and 'nowhere' is none",
        ),
        (["nowhere.json", "--image-size", "224"], "error: --image-size says what pictures of class folders are"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(["data", "check", *arguments], capsys).startswith(message)


def test_real_data(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_dir / "coco_mini"
    source = folder / "annotations" / "instances_val.json"
    assert run(["data", "check", str(source), "--images", str(folder / "val"), "--strict"]) == 0
    printed = capsys.readouterr().out
    assert "22, 1 with nothing on them" in printed and "182, 182 of them with a mask; 2 crowds" in printed
    assert "80, 46 of them without a thing" in printed and "the rarest and the most frequent of 80 classes" in printed
