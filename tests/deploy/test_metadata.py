"""What an exported file says of itself survives the way through text."""

from __future__ import annotations

import pytest

from effvit.deploy.metadata import FileMetadata
from effvit.errors import WeightsError
from effvit.model.variants import VARIANTS
from effvit.preprocessing import Preprocessing

FULL = FileMetadata(
    variant="efficientvit_m0",
    config=VARIANTS["efficientvit_m5"],
    class_names=("apple", "Käse", '"quoted"', ""),
    preprocessing=Preprocessing(image_size=(96, 128), interpolation="bilinear"),
    temperature=0.8,
    provenance={"data": "photos"},
    version="0.1.0",
    verification={"max_abs_error": 1.5e-6, "passed": True},
    file_format="openvino",
    precision="int8",
    batch_size=4,
    takes_pixels=True,
    num_bytes=123,
    quantization={"num_pictures": 8},
)


@pytest.mark.parametrize("metadata", [FULL, FileMetadata(), FileMetadata(class_names=("one",))])
def test_it_comes_back_as_it_was(metadata: FileMetadata) -> None:
    properties = metadata.to_properties()
    assert all(isinstance(value, str) for value in properties.values())
    assert FileMetadata.from_properties(properties) == metadata


def test_keys_of_other_tools_and_later_versions_are_passed_over() -> None:
    properties = {**FULL.to_properties(), "author": "someone", "effvit.something_new": "{}", "variant": "other"}
    assert FileMetadata.from_properties(properties) == FULL


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("class_names", "[1, 2"),
        ("class_names", "7"),
        ("preprocessing", '{"image_size": [0, 0]}'),
        ("preprocessing", '{"unknown": 1}'),
        ("preprocessing", "3"),
        ("variant", "plain text"),
        ("config", '{"name": "efficientvit_m0"}'),
    ],
)
def test_damage_is_named(key: str, text: str) -> None:
    with pytest.raises(WeightsError, match=f"damaged metadata, effvit.{key}: "):
        FileMetadata.from_properties({f"effvit.{key}": text})


def test_the_input_follows_from_the_description() -> None:
    assert FULL.input_shape == (4, 96, 128, 3)
    assert FileMetadata(preprocessing=FULL.preprocessing).input_shape == (None, 3, 96, 128)
    with pytest.raises(WeightsError, match="does not say which pictures it takes"):
        _ = FileMetadata().input_shape
