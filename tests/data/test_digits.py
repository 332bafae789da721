from __future__ import annotations

from pathlib import Path

from sklearn.datasets import load_digits

from effvit.data.datasets import find_data
from effvit.data.digits import DIGIT_SIZE, write_digits
from effvit.data.pictures import read_picture


def test_every_scan_becomes_a_picture_of_its_class(tmp_path: Path) -> None:
    data = find_data(write_digits(tmp_path / "digits"))
    assert data.class_names == tuple("0123456789")
    samples = {int(sample.path.stem): sample for sample in (*data.train, *data.val)}
    digits = load_digits()
    assert [samples[index].target for index in range(1797)] == digits.target.tolist()
    picture = read_picture(samples[5].path)
    assert picture.size == (DIGIT_SIZE, DIGIT_SIZE)
    # The middle of each scanned pixel is still about as bright as the scan.
    step = DIGIT_SIZE // 8
    bright = [picture.getpixel((x * step + step // 2, y * step + step // 2))[0] for y in range(8) for x in range(8)]
    difference = abs(digits.images[5].reshape(-1) / 16 - [value / 255 for value in bright])
    assert difference.mean() < 0.1


def test_pictures_that_are_there_are_left_alone(tmp_path: Path) -> None:
    folder = write_digits(tmp_path)
    first = folder / "0" / "0000.png"
    first.write_bytes(b"mine")
    write_digits(tmp_path)
    assert first.read_bytes() == b"mine"
