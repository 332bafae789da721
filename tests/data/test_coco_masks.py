from __future__ import annotations

import builtins
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from pycocotools import mask as pycocotools_mask

from effvit.data.coco import read_coco
from effvit.data.coco_masks import mask_of, unpack_runs, usable_segmentation
from effvit.errors import ConfigError, DataError

HEIGHT, WIDTH = 30, 40
MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=70))


def as_pycocotools_draws(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools is older than NumPy 2
        runs = pycocotools_mask.frPyObjects(segmentation, height, width)
        if isinstance(segmentation, list):
            runs = pycocotools_mask.merge(runs)
        return pycocotools_mask.decode(runs).astype(bool)


def packed(mask: NDArray[np.bool_]) -> str:
    counts: bytes = pycocotools_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode()


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs down the columns, the first outside."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(np.diff(flat.astype(np.int8)))
    return [int(length) for length in np.diff([0, *edges, mask.size])]


@pytest.mark.parametrize("part", ["train", "val"])
def test_real_masks_are_those_of_pycocotools(data_dir: Path, part: str) -> None:
    folder = data_dir / "coco_mini"
    data = read_coco(folder / "annotations" / f"instances_{part}.json", folder / part)
    kinds = set()
    for picture in data.pictures:
        size = (picture.height, picture.width)
        for thing in picture.things:
            mask = mask_of(thing.segmentation, *size)
            assert mask.dtype == bool and mask.shape == size and mask.any()
            expected = as_pycocotools_draws(thing.segmentation, *size)
            np.testing.assert_array_equal(mask, expected)
            np.testing.assert_array_equal(mask_of({"size": [*size], "counts": packed(expected)}, *size), expected)
            kinds.add(type(thing.segmentation))
    assert kinds == {list, dict}


@given(MASKS)
def test_runs_written_in_both_ways_give_the_mask_back(mask: NDArray[np.bool_]) -> None:
    size = [*mask.shape]
    assert unpack_runs(packed(mask)) == run_lengths(mask)
    np.testing.assert_array_equal(mask_of({"size": size, "counts": run_lengths(mask)}, *size), mask)
    np.testing.assert_array_equal(mask_of({"size": size, "counts": packed(mask)}, *size), mask)


@settings(max_examples=50)
@given(st.lists(st.lists(st.tuples(st.floats(-20, 60), st.floats(-20, 50)), min_size=3, max_size=8), min_size=1))
def test_polygons_are_those_of_pycocotools_even_partly_outside(outlines: list[list[tuple[float, float]]]) -> None:
    polygons = [[value for point in outline for value in point] for outline in outlines]
    expected = as_pycocotools_draws(polygons, HEIGHT, WIDTH)
    np.testing.assert_array_equal(mask_of(polygons, HEIGHT, WIDTH), expected)


@given(st.text(alphabet=[chr(code) for code in range(40, 120)], max_size=30))
def test_no_text_of_runs_brings_more_than_a_refusal(text: str) -> None:
    runs = {"size": [HEIGHT, WIDTH], "counts": text}
    try:
        mask = mask_of(runs, HEIGHT, WIDTH)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert mask.shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize(("segmentation", "message"), [
    (None, "there is no segmentation to draw"),
    ([], "there is no segmentation to draw"),
    ([[1, 2, 3, 4]], "a polygon has 2 points, and 3 are the fewest"),
    ([[1, 2, 3, 4, 5]], "a polygon has an odd length, 5: x and y of each point are wanted"),
    ([[1, 1, 9, 1, 5, 9], [1, 2]], "a polygon has 1 points"),
    ([1, 1, 9, 1, 5, 9], "a polygon must be a list x, y, x, y, ..., got 1"),
    ([[1, 1, 9, 1, 5, float("nan")]], "a polygon must have numbers up to 100,000, got nan"),
    ([[1, 1, 9, 1, 5, 1e9]], "a polygon must have numbers up to 100,000, got 1000000000.0"),
    ([[1, 1, 9, 1, 5, "9"]], "a polygon must have numbers up to 100,000, got '9'"),
    ("text", "its segmentation must be polygons or an object with size and counts, got 'text'"),
    ([[1, 1, 9, float("nan"), 5, 9]], "a polygon must have numbers up to 100,000, got nan"),
    ([[float("nan"), 1, 9, -1e6, 5, 9]], "a polygon must have numbers up to 100,000, got nan"),
    ([[1, 1, 9, 10**400, 5, 9]], "a polygon must have numbers up to 100,000, got 1000000"),
    ({"counts": [1]}, "the size of its runs is None, and the picture's is [30, 40] (height, width)"),
    ({"size": [40, 30], "counts": [1200]}, "the size of its runs is [40, 30], and the picture's is [30, 40]"),
    ({"size": [30, 40]}, "the counts of its runs must be whole numbers from 0, or a text, got None"),
    ({"size": [30, 40], "counts": [600, -5, 605]}, "the counts of its runs must be whole numbers from 0, or a text"),
    ({"size": [30, 40], "counts": [600, 5.0, 595]}, "the counts of its runs must be whole numbers from 0, or a text"),
    ({"size": [30, 40], "counts": [600, 599]}, "its runs cover 1199 pixels of 1200"),
    ({"size": [30, 40], "counts": ""}, "its runs are an empty text"),
    ({"size": [30, 40], "counts": "1"}, "its runs cover 1 pixels of 1200"),
    ({"size": [30, 40], "counts": "~"}, "its packed runs have a sign that none is written with: '~'"),
    ({"size": [30, 40], "counts": "P"}, "its packed runs end within a number"),
    ({"size": [30, 40], "counts": "O"}, "its packed runs have a negative length, -1"),
])  # fmt: skip
def test_what_cannot_be_drawn_says_why(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        mask_of(segmentation, HEIGHT, WIDTH)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_faulty_polygons_go_and_the_others_stay() -> None:
    good, bad = [1, 1, 9, 1, 5, 9], [1, 2, 3, 4]
    assert usable_segmentation([good, bad, good], HEIGHT, WIDTH) == (
        [good, good],
        "a polygon has 2 points, and 3 are the fewest",
    )
    assert usable_segmentation([good], HEIGHT, WIDTH) == ([good], "")
    assert usable_segmentation([[]], HEIGHT, WIDTH) == (None, "")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *rest: Any, real: Callable[..., Any] = builtins.__import__) -> Any:
        if name.startswith("faster_coco_eval"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        ConfigError, match=r"faster-coco-eval, which is not installed: pip install 'effvit\[detection\]'"
    ):
        mask_of([[1, 1, 9, 1, 5, 9]], HEIGHT, WIDTH)
