"""Real pictures that need no download: scikit-learn's scanned digits, written out as anyone's photos would be."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from effvit.files import atomic_path, make_output_folder

DIGIT_SIZE = 64
"""Side of a picture in pixels; the scans have 8."""


def write_digits(folder: Path) -> Path:
    """Write the 1,797 scanned digits as `folder/0/0000.png` ... `folder/9/1796.png`, enlarged; returns the folder.

    Pictures that are there already are left alone.

    Source: scikit-learn's `load_digits`, the test set of the UCI "Optical Recognition of Handwritten
    Digits" data (Alpaydin and Kaynak, 1998), 8 x 8 pixels of 17 grey levels.

    Raises:
        RunError: If the folder cannot be written.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    for name in map(str, digits.target_names):
        make_output_folder(folder / name)
    for index, (scan, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(target) / f"{index:04d}.png"
        if path.exists():
            continue
        picture = Image.fromarray((scan * (255 / 16)).round().astype("uint8"))
        with atomic_path(path) as temporary:
            picture.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BICUBIC).save(temporary)
    return folder
