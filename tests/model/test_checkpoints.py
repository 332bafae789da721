"""Weights travel between three worlds and come back the same; what does not fit is listed; nothing is run."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from helpers import randomise
from safetensors.torch import load_file, save_file

import effvit
from effvit.errors import RunError, WeightsError
from effvit.model.checkpoints import (
    foreign_state_dict,
    load_weights,
    read_weights,
    save_foreign,
    write_temperature,
)
from effvit.model.network import EfficientViT
from effvit.model.variants import family_config
from effvit.preprocessing import Preprocessing

TINY = "efficientvit_tiny"


def same(one: EfficientViT, other: EfficientViT) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def model() -> EfficientViT:
    return randomise(effvit.create_model(TINY, num_classes=3))


@pytest.mark.parametrize(("style", "suffix"), [("official", ".pth"), ("timm", ".safetensors"), ("timm", ".pth")])
@pytest.mark.parametrize("variant", ["efficientvit_m0", "efficientvit_m5", TINY])
def test_round_trip_through_foreign_names(variant: str, style: str, suffix: str, tmp_path: Path) -> None:
    model = randomise(effvit.create_model(variant, num_classes=5))
    path = save_foreign(tmp_path / f"weights{suffix}", model, style)
    assert read_weights(path).style == style
    assert same(effvit.create_model(variant, weights=path), model)  # the number of classes comes from the file


def test_round_trip_of_a_distilled_network(tmp_path: Path) -> None:
    model = randomise(effvit.create_model(TINY, num_classes=5, distilled=True))
    path = save_foreign(tmp_path / "weights.pth", model, "official")
    twin = effvit.create_model(TINY, weights=path)
    assert twin.config.distilled and same(twin, model)
    with pytest.raises(WeightsError, match="timm has no second head"):
        foreign_state_dict(model, "timm")


@pytest.mark.parametrize("key", ["m0", "m1", "m5", "m4_distilled_37"])
def test_official_names_shapes_and_order(key: str, data_dir: Path) -> None:
    """The official code's own list: what we write, it loads strictly."""
    listed = json.loads((data_dir / "reference" / "official_state_dicts.json").read_text())[key]
    distilled = "distilled" in key
    model = effvit.create_model(f"efficientvit_{key[:2]}", num_classes=37 if distilled else 1000, distilled=distilled)
    state = foreign_state_dict(model, "official")
    assert {name: list(value.shape) for name, value in state.items()} == listed


def test_timm_loads_what_we_write_strictly(tmp_path: Path) -> None:
    model = randomise(effvit.create_model("efficientvit_m1", num_classes=5)).eval()
    path = save_foreign(tmp_path / "weights.safetensors", model, "timm")
    theirs = timm.create_model("efficientvit_m1", num_classes=5, checkpoint_path=str(path)).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
def test_wrapped_and_prefixed_state_dicts(wrap, model: EfficientViT, tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in foreign_state_dict(model, "official").items()}
    torch.save(wrap(state), tmp_path / "weights.pth")
    assert same(effvit.create_model(TINY, weights=tmp_path / "weights.pth"), model)


def test_a_checkpoint_of_the_official_training_script(model: EfficientViT, tmp_path: Path) -> None:
    """It stores its command line beside the weights, as an object."""
    content = {"model": foreign_state_dict(model, "official"), "args": argparse.Namespace(lr=1e-3), "epoch": 7}
    torch.save(content, tmp_path / "checkpoint.pth")
    assert same(effvit.create_model(TINY, weights=tmp_path / "checkpoint.pth"), model)


class TestOurFolder:
    info = effvit.WeightsInfo(
        class_names=("apple", "naïve café", "梨"),
        preprocessing=Preprocessing(image_size=(96, 128), mean=(0.5,) * 3, std=(0.25,) * 3, crop_ratio=1.0),
        provenance={"run": "test"},
        temperature=1.25,
    )

    def test_round_trip(self, model: EfficientViT, tmp_path: Path) -> None:
        folder = effvit.save(tmp_path / "weights", model, self.info)
        twin, info = effvit.load(folder)
        assert same(twin, model) and twin.config == model.config and not twin.training
        assert info == self.info
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]

    def test_a_run_folder_and_a_file_lead_to_it(self, model: EfficientViT, tmp_path: Path) -> None:
        effvit.save(tmp_path / "run" / "weights", model, self.info)
        for path in (tmp_path / "run", tmp_path / "run" / "weights" / "model.safetensors"):
            twin, info = effvit.load(path)
            assert same(twin, model) and info == self.info

    def test_any_configuration(self, tmp_path: Path) -> None:
        config = family_config(
            "ablated", widths=(8, 16), depths=(1, 1), num_heads=(1, 2), query_kernels=(3, 3), mixer="mhsa", norm="layer"
        )
        model = randomise(EfficientViT(replace(config, num_classes=3)))
        twin, _ = effvit.load(effvit.save(tmp_path, model, self.info))
        assert same(twin, model)
        with pytest.raises(
            WeightsError,
            match="ablated has no official names: there are 2 stages, not 3; norm is 'layer'; not every block",
        ):
            foreign_state_dict(model, "official")

    def test_create_model_takes_what_is_left_out_from_the_folder(self, tmp_path: Path) -> None:
        model = randomise(effvit.create_model(TINY, num_classes=3, image_size=96, window=3))
        effvit.save(tmp_path, model, self.info)
        assert same(effvit.create_model(TINY, weights=tmp_path), model)
        other = effvit.create_model(TINY, weights=tmp_path, num_classes=9, image_size=224)
        assert other.config.num_classes == 9 and other.config.image_size == (224, 224)

    def test_another_variants_weights(self, model: EfficientViT, tmp_path: Path) -> None:
        effvit.save(tmp_path, model, self.info)
        with pytest.raises(WeightsError, match="holds weights of efficientvit_tiny, not of efficientvit_m0"):
            effvit.create_model("efficientvit_m0", weights=tmp_path)

    def test_class_names_are_counted(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="3 class names for 1000 classes"):
            effvit.save(tmp_path / "out", effvit.create_model(TINY), self.info)
        assert not (tmp_path / "out").exists()

    def test_damaged_description(self, model: EfficientViT, tmp_path: Path) -> None:
        effvit.save(tmp_path, model, self.info)
        values = json.loads((tmp_path / "config.json").read_text())
        del values["network"]["stages"]
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(WeightsError, match=r"config.json does not describe weights: .*'stages' must be a list"):
            effvit.load(tmp_path)

    def test_a_place_that_cannot_be_written(self, model: EfficientViT, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match=r"cannot use .*file as output folder: it is a file"):
            effvit.save(tmp_path / "file", model, self.info)


def test_another_number_of_classes_replaces_the_head(model: EfficientViT, tmp_path: Path) -> None:
    """Defect 3: the official code crashes."""
    path = save_foreign(tmp_path / "weights.pth", model, "official")
    other = effvit.create_model(TINY, num_classes=8)
    report = load_weights(other, read_weights(path))
    assert report.head_replaced == (3, 8) and "head of 3 classes replaced by a new one of 8" in str(report)
    assert torch.equal(other.stem[0].conv.weight, model.stem[0].conv.weight)
    assert other.head.linear.weight.shape[0] == 8
    assert other.head.norm.running_var.eq(1).all()  # new, not half of the old one
    assert effvit.create_model(TINY, weights=path, num_classes=0).config.num_classes == 0


def test_other_windows_resize_the_tables(model: EfficientViT, tmp_path: Path) -> None:
    path = save_foreign(tmp_path / "weights.pth", model, "official")
    other = effvit.create_model(TINY, weights=path, image_size=448)
    assert same(other, model.resized(image_size=448))
    report = load_weights(other, read_weights(path))
    assert len(report.tables_resized) == 2 and "2 bias tables resized" in str(report)


def test_everything_that_does_not_fit_is_listed_and_nothing_changed(model: EfficientViT, tmp_path: Path) -> None:
    state = foreign_state_dict(model, "timm")
    del state["stages.0.blocks.0.dw0.m.conv.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["patch_embed.conv2.conv.weight"] = torch.zeros(4, 9, 3, 3)
    save_file(state, tmp_path / "weights.safetensors")
    target = randomise(effvit.create_model(TINY, num_classes=3), seed=5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(target, read_weights(tmp_path / "weights.safetensors"))
    message = str(caught.value)
    assert "missing stages.0.blocks.0.dw0.m.conv.weight" in message
    assert "unexpected extra.weight" in message
    assert "patch_embed.conv2.conv.weight has shape (4, 9, 3, 3), the network's is (4, 2, 3, 3)" in message
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


def test_another_variant_does_not_fit(model: EfficientViT, tmp_path: Path) -> None:
    """Defect 4: the official detection copy silently loads nothing."""
    path = save_foreign(tmp_path / "weights.pth", model, "official")
    with pytest.raises(WeightsError, match="does not fit efficientvit_m0: patch_embed.0.c.weight has shape"):
        effvit.create_model("efficientvit_m0", weights=path)


@pytest.mark.parametrize("without", ["num_batches_tracked", "attention_bias_idxs"])
def test_bookkeeping_may_be_left_out(without: str, model: EfficientViT, tmp_path: Path) -> None:
    state = {k: v for k, v in foreign_state_dict(model, "official").items() if not k.endswith(without)}
    torch.save(state, tmp_path / "weights.pth")
    twin = effvit.create_model(TINY, weights=tmp_path / "weights.pth")
    assert torch.equal(
        twin.stages[1][1].attention.body.attention_biases, model.stages[1][1].attention.body.attention_biases
    )


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("hostile-code-has-run"),))


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_hostile_file_is_refused(writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pth"
    writer({"model": Hostile()}, path)
    with pytest.raises(WeightsError, match=r"hostile.pth is refused: it is no checkpoint, or holds code, which"):
        read_weights(path)
    assert not (tmp_path / "hostile-code-has-run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pth", None, "no weights at .*missing.pth: no such file or folder"),
        ("empty.pth", b"", "empty.pth"),
        ("text.pth", b"hello", "text.pth"),
        ("text.safetensors", b"hello, this is no tensor file", "cannot read weights from .*text.safetensors"),
    ],
)
def test_damaged_files(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_other_networks_and_empty_folders(tmp_path: Path) -> None:
    save_file({"blocks.0.attn.weight": torch.zeros(1)}, tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match="holds no EfficientViT-M weights; its first names are: blocks.0"):
        read_weights(tmp_path / "vit.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list, not a state dict"):
        read_weights(tmp_path / "list.pth")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightsError, match="no weights in folder"):
        read_weights(tmp_path / "folder")


def test_weights_without_a_description_need_a_name(model: EfficientViT, tmp_path: Path) -> None:
    path = save_foreign(tmp_path / "weights.pth", model, "official")
    with pytest.raises(WeightsError, match="does not say which network it is for; name it"):
        effvit.load(path)


def test_what_is_written_is_a_plain_tensor_file(model: EfficientViT, tmp_path: Path) -> None:
    effvit.save(tmp_path, model)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


def test_the_deploy_form_is_not_saved_as_if_it_could_be_read_back(model: EfficientViT, tmp_path: Path) -> None:
    from effvit.deploy.rewrite import rewrite

    with pytest.raises(WeightsError, match="was rewritten for inference; save the network it was made from"):
        effvit.save(tmp_path / "out", rewrite(model))
    assert not (tmp_path / "out").exists()


def test_a_description_speaks_for_its_own_file_alone(model: EfficientViT, tmp_path: Path) -> None:
    effvit.save(tmp_path, model)
    other = randomise(effvit.create_model("efficientvit_m0", num_classes=2))
    path = save_foreign(tmp_path / "official_m0.pth", other, "official")
    assert same(effvit.create_model("efficientvit_m0", weights=path), other)


def test_a_misshapen_table_is_in_the_list(model: EfficientViT, tmp_path: Path) -> None:
    state = foreign_state_dict(model, "official")
    state["blocks1.0.mixer.m.attn.attention_biases"] = torch.zeros(2, 50)
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"attention_biases has shape \(2, 50\).*; unexpected extra"):
        effvit.create_model(TINY, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("change", [{"ffn_ratio": 4}, {"value_ratio": 0.5}, {"key_dim": 8}])
@pytest.mark.parametrize("style", ["official", "timm"])
def test_networks_that_the_other_worlds_cannot_build_get_no_names(style: str, change: dict[str, float]) -> None:
    sizes = {"widths": (8, 16, 24), "depths": (1, 1, 1), "num_heads": (1, 2, 2), "query_kernels": (3, 3)}
    with pytest.raises(WeightsError, match=f"other has no {style} names: widths inside"):
        foreign_state_dict(EfficientViT(family_config("other", **sizes, **change)), style)
    assert foreign_state_dict(EfficientViT(family_config("other", **sizes)), style)


def test_a_backbone_gets_a_head(model: EfficientViT, tmp_path: Path) -> None:
    state = {k: v for k, v in foreign_state_dict(model, "official").items() if not k.startswith("head")}
    torch.save(state, tmp_path / "backbone.pth")
    assert effvit.create_model(TINY, weights=tmp_path / "backbone.pth").config.num_classes == 0
    target = effvit.create_model(TINY, weights=tmp_path / "backbone.pth", num_classes=6)
    assert target.head.linear.weight.shape[0] == 6
    assert torch.equal(target.stem[0].conv.weight, model.stem[0].conv.weight)


def test_a_configuration_given_as_a_value_is_kept(model: EfficientViT, tmp_path: Path) -> None:
    path = save_foreign(tmp_path / "weights.pth", model, "official")
    config = replace(model.config, num_classes=9)
    assert effvit.create_model(config, weights=path).config == config


def test_what_was_replaced_is_said(model: EfficientViT, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_foreign(tmp_path / "weights.pth", model, "official")
    effvit.create_model(TINY, weights=path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    effvit.create_model(TINY, weights=path, num_classes=9, image_size=448)
    assert "head of 3 classes replaced by a new one of 9; 2 bias tables resized" in caplog.text
    assert caplog.records[0].levelname == "WARNING"


def test_a_network_of_one_channel_is_described_as_such(tmp_path: Path) -> None:
    effvit.save(tmp_path, effvit.create_model(TINY, in_channels=1, image_size=64))
    preprocessing = effvit.load(tmp_path)[1].preprocessing
    assert preprocessing.mean == (0.5,) and preprocessing.image_size == (64, 64)


def test_a_save_that_fails_leaves_the_folder_as_it_was(model: EfficientViT, tmp_path: Path) -> None:
    folder = effvit.save(tmp_path / "weights", model)
    bad = effvit.WeightsInfo(provenance={"not JSON": {1}})
    with pytest.raises(WeightsError, match="provenance must be plain JSON values"):
        effvit.save(folder, effvit.create_model(TINY, num_classes=4), bad)
    assert same(effvit.load(folder)[0], model)
    with pytest.raises(WeightsError, match="provenance must be plain JSON values"):
        effvit.save(tmp_path / "new", model, bad)
    assert not (tmp_path / "new").exists()


def test_a_description_of_another_file_is_noticed(model: EfficientViT, tmp_path: Path) -> None:
    effvit.save(tmp_path / "one", model)
    effvit.save(tmp_path / "other", effvit.create_model(TINY, num_classes=4))
    (tmp_path / "one" / "config.json").replace(tmp_path / "other" / "config.json")
    with pytest.raises(WeightsError, match="do not belong together: .*head of 4 classes replaced by a new one of 3"):
        effvit.load(tmp_path / "other")


def test_a_temperature_is_written_beside_the_weights_and_nothing_else_changes(
    model: EfficientViT, tmp_path: Path
) -> None:
    folder = effvit.save(tmp_path / "run" / "weights", model, TestOurFolder.info)
    assert write_temperature(tmp_path / "run", 0.5, {"data": "photos"}) == folder / "config.json"
    twin, info = effvit.load(folder)
    assert same(twin, model)
    assert info == replace(
        TestOurFolder.info, temperature=0.5, provenance={"run": "test", "calibration": {"data": "photos"}}
    )
    with pytest.raises(WeightsError, match="temperature must be a finite number above 0, got 0"):
        write_temperature(folder, 0, {})
    assert effvit.load(folder)[1] == info
    save_foreign(tmp_path / "model.safetensors", model, "timm")
    with pytest.raises(WeightsError, match="is no weights folder or run"):
        write_temperature(tmp_path / "model.safetensors", 0.5, {})


def test_weights_written_before_there_were_temperatures_have_none(model: EfficientViT, tmp_path: Path) -> None:
    description = effvit.save(tmp_path, model) / "config.json"
    values = json.loads(description.read_text())
    del values["temperature"]
    description.write_text(json.dumps(values))
    assert effvit.load(tmp_path)[1].temperature == 1


@pytest.mark.parametrize("names", ["abc", ("cat", "cat"), (1, 2)])
def test_class_names_are_different_texts(names: object) -> None:
    with pytest.raises(WeightsError, match="class_names must be a tuple of different texts, got"):
        effvit.WeightsInfo(class_names=names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": "10"}, "num_classes must be a whole number, 0 or more, got '10'"),
        ({"num_classes": 2.5}, "num_classes must be a whole number, 0 or more, got 2.5"),
        ({"image_size": "224"}, "image_size must be a side, or a height and a width, got '224'"),
        ({"image_size": (64,)}, r"image_size must be a side, or a height and a width, got \(64,\)"),
        ({"image_size": (float("nan"), 64)}, r"image_size must be a height and a width from 32 up, got \(nan, 64\)"),
        ({"window": 2.5}, "window must be a whole number, got 2.5"),
        ({"window": -1}, "window must be positive, got -1"),
        ({"weights": 3}, "weights must be a path, a Hub id or 'imagenet', got 3"),
        ({"weights": ""}, "weights must be a path, a Hub id or 'imagenet', got ''"),
    ],
)
def test_odd_arguments_are_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(effvit.EffvitError, match=message):
        effvit.create_model(TINY, **arguments)


def test_a_device_that_is_not_there(model: EfficientViT, tmp_path: Path) -> None:
    effvit.save(tmp_path, model)
    with pytest.raises(effvit.EffvitError, match="device 'foo' cannot be used here; usable: cpu"):
        effvit.load(tmp_path, device="foo")


@pytest.mark.parametrize("name", [None, 3])
def test_what_is_no_name(name: object) -> None:
    with pytest.raises(effvit.EffvitError, match="wants a name of list_variants.. or an EfficientViTConfig, got"):
        effvit.create_model(name)
