from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effvit.data.duplicates import (
    MAX_COARSE_BITS,
    MAX_FINE_BITS,
    NearPair,
    connected,
    exact_groups,
    fingerprint,
    near_pairs,
)


@pytest.fixture(scope="module")
def opened(photos: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(photos.rglob("*.jpg"))]


def saved(picture: Image.Image, **options: object) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, **options)  # type: ignore[arg-type]
    return Image.open(file).convert("RGB")


def altered(picture: Image.Image) -> dict[str, Image.Image]:
    width, height = picture.size
    return {
        "poor": saved(picture, format="JPEG", quality=30),
        "half": saved(picture.resize((width // 2, height // 2)), format="JPEG", quality=75),
        "twice": picture.resize((2 * width, 2 * height), Image.Resampling.BICUBIC),
        "bright": picture.point(lambda level: min(255, int(1.2 * level))),
    }


def test_copies_in_another_file_are_exact(opened: list[Image.Image]) -> None:
    prints = [fingerprint(picture).pixels for picture in opened]
    prints.append(fingerprint(saved(opened[3], format="PNG")).pixels)
    prints.append(fingerprint(saved(opened[3], format="WEBP", lossless=True, quality=0)).pixels)
    assert exact_groups(prints) == [[3, 30, 31]]


def test_the_same_bytes_in_another_shape_are_another_picture() -> None:
    wide, tall = Image.new("RGB", (4, 2), "red"), Image.new("RGB", (2, 4), "red")
    assert fingerprint(wide).pixels != fingerprint(tall).pixels


def test_altered_copies_are_found_and_other_photos_are_not(opened: list[Image.Image]) -> None:
    everything = list(opened)
    expected = set()
    for index, picture in enumerate(opened):
        for copy in altered(picture).values():
            expected.add((index, len(everything)))
            everything.append(copy)
    prints = [fingerprint(picture) for picture in everything]
    found = near_pairs([one.coarse for one in prints], [one.fine for one in prints])
    pairs = {(pair.first, pair.second) for pair in found}
    assert expected <= pairs
    origin = [*range(30), *(index for index in range(30) for _ in range(4))]
    assert all(origin[first] == origin[second] for first, second in pairs)


hashes = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30)


@settings(max_examples=50)
@given(hashes, st.data())
def test_the_fast_search_finds_what_comparing_all_finds(coarse: list[int], draw: st.DataObject) -> None:
    for _ in range(10):  # neighbours of what is there, on both sides of the limit
        bits = draw.draw(st.lists(st.integers(0, 63), max_size=MAX_COARSE_BITS + 2, unique=True))
        base = draw.draw(st.sampled_from(coarse))
        coarse = [*coarse, base ^ sum(1 << bit for bit in bits)]
    fine = [(value, value, 0, 0) for value in coarse]
    expected = {
        (first, second)
        for first, second in itertools.combinations(range(len(coarse)), 2)
        if (coarse[first] ^ coarse[second]).bit_count() <= MAX_COARSE_BITS
    }
    assert {(pair.first, pair.second) for pair in near_pairs(coarse, fine)} == expected


def test_differing_bits_spread_evenly_are_found_as_well() -> None:
    spread = sum(1 << bit for bit in (5, 15, 26, 37, 47, 58))
    for shift in range(-5, 6):
        moved = spread << shift if shift > 0 else spread >> -shift
        assert len(near_pairs([0, moved], [(0, 0, 0, 0)] * 2)) == 1


def test_the_fine_hash_confirms() -> None:
    same, limit, beyond = (0, 0, 0, 0), (2**MAX_FINE_BITS - 1, 0, 0, 0), (0, 2 ** (MAX_FINE_BITS + 1) - 1, 0, 0)
    assert near_pairs([5, 5, 5], [same, limit, beyond]) == [NearPair(0, 1, MAX_FINE_BITS)]
    assert near_pairs([], []) == []


def test_linked_pictures_are_one_group() -> None:
    pairs = [NearPair(5, 6, 0), NearPair(1, 2, 0), NearPair(0, 3, 0), NearPair(2, 3, 0)]
    assert connected(pairs) == [[0, 1, 2, 3], [5, 6]]


def test_hashes_see_left_from_right() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8), (24, 1))).convert("RGB")
    mirrored = ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert fingerprint(ramp).coarse == 2**64 - 1
    assert fingerprint(mirrored).coarse == 0
