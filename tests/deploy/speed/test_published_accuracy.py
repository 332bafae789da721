"""The table of accuracies: its names exist, its sizes are timm's, and nothing is said of what is not in it."""

from __future__ import annotations

import pytest
import timm

from effvit.deploy.speed.published_accuracy import PEERS, published_accuracy
from effvit.model.variants import PUBLISHED


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_a_model_of_timms_at_the_size_it_is_measured_with(name: str) -> None:
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    entry = PEERS[name]
    assert config.input_size == (3, entry.image_size, entry.image_size)
    tags = {model.partition(".")[2] for model in timm.list_pretrained(name)}
    assert entry.weights.partition(",")[0] in tags or "not timm's" in entry.weights
    assert 60 < entry.top1 < 80 and entry.source


def test_ours_is_found_by_any_name() -> None:
    for name in ("efficientvit_m0", "timm/efficientvit_m0", "timm/efficientvit_m0@plain"):
        found = published_accuracy(name, (224, 224))
        assert found is not None and found.top1 == PUBLISHED["efficientvit_m0"].top1


def test_an_accuracy_at_another_size_is_none() -> None:
    assert published_accuracy("mobilevit_xxs", (256, 256)) is not None
    assert published_accuracy("mobilevit_xxs", (224, 224)) is None
    assert published_accuracy("efficientvit_m0", (224, 256)) is None


def test_nothing_is_made_up() -> None:
    assert published_accuracy("resnet18", (224, 224)) is None
    assert published_accuracy("efficientvit_tiny", (224, 224)) is None
