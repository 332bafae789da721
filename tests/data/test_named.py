"""The paper's data sets, each as a small copy of its published layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision.datasets.cifar
import torchvision.datasets.flowers102
from PIL import Image

from effvit.data.datasets import find_data, find_samples
from effvit.data.named import READERS, imagenet_names
from effvit.data.pictures import read_sample
from effvit.errors import DataError


def write_picture(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, level, level)).save(path)


@pytest.fixture(autouse=True)
def _any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision knows the published files by their checksums; small copies have others."""

    def is_there(path: str, *_: object) -> bool:
        return Path(path).is_file()

    for module in (torchvision.datasets.cifar, torchvision.datasets.flowers102):
        monkeypatch.setattr(module, "check_integrity", is_there)


def write_cifar(root: Path, *, fine: bool) -> dict[str, np.ndarray]:
    """CIFAR's pickles with ten pictures a batch; returns the pixels by part, (N, 32, 32, 3)."""
    generator = np.random.default_rng(0)
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    label = "fine_labels" if fine else "labels"
    pixels: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    for name in ("train", "test") if fine else (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        rows = generator.integers(0, 256, (10, 3 * 32 * 32), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": rows, label: [index % 2 for index in range(10)]}))
        part = "val" if name.startswith("test") else "train"
        pixels[part].append(rows.reshape(10, 3, 32, 32).transpose(0, 2, 3, 1))  # (N, 3, H, W) -> (N, H, W, 3)
    names = {"fine_label_names" if fine else "label_names": ["airplane", "automobile"]}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(names))
    return {part: np.concatenate(batches) for part, batches in pixels.items()}


@pytest.mark.parametrize(("name", "fine"), [("cifar10", False), ("cifar100", True)])
def test_cifar_is_read_pixel_for_pixel(tmp_path: Path, name: str, fine: bool) -> None:
    pixels = write_cifar(tmp_path, fine=fine)
    data = find_data(f"{name}:{tmp_path}")
    assert data.class_names == ("airplane", "automobile") and data.split == "given"
    for part, samples in (("train", data.train), ("val", data.val)):
        assert len(samples) == len(pixels[part])
        by_index = {int(Path(sample.member).stem): sample for sample in samples}
        for index, expected in enumerate(pixels[part]):
            assert np.array_equal(read_sample(by_index[index]), expected)
            assert by_index[index].target == index % 2
    # From then on the shards are enough.
    for file in (tmp_path / ("cifar-100-python" if fine else "cifar-10-batches-py")).iterdir():
        file.unlink()
    assert find_data(f"{name}:{tmp_path}") == data
    assert find_samples(f"{name}:{tmp_path}").samples == data.val


def test_damaged_cifar_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, fine=False)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: False)
    with pytest.raises(DataError, match=r"cifar10 is not in .*: looked for .*cifar-10-batches-py, whole and as pub"):
        find_data(f"cifar10:{tmp_path}")
    assert not (tmp_path / "effvit-cifar10").exists()


def test_flowers_trains_on_both_official_training_parts(tmp_path: Path) -> None:
    folder = tmp_path / "flowers-102"
    labels = np.arange(12) % 102 + 1
    parts = {"trnid": [1, 4, 7], "valid": [2, 5, 8], "tstid": [3, 6, 9]}
    for index in range(1, 13):
        write_picture(folder / "jpg" / f"image_{index:05d}.jpg")
    every_class = np.concatenate([labels, np.arange(1, 103)])
    parts["trnid"] += list(range(13, 115))
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": every_class[None]})
    scipy.io.savemat(folder / "setid.mat", {name: np.array([ids]) for name, ids in parts.items()})
    data = find_data(f"flowers102:{tmp_path}")
    assert len(data.class_names) == 102 and data.class_names[0] == "pink primrose"
    numbers = {part: {int(sample.path.stem[-5:]) for sample in getattr(data, part)} for part in ("train", "val")}
    assert numbers == {"train": {*parts["trnid"], *parts["valid"]}, "val": set(parts["tstid"])}
    assert all(sample.target == every_class[int(sample.path.stem[-5:]) - 1] - 1 for sample in data.train)


def test_stanford_cars(tmp_path: Path) -> None:
    folder = tmp_path / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array(["Audi A", "BMW B"], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    kind = [("fname", object), ("class", np.uint8)]
    for part, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.array([(f"{index}.jpg", index % 2 + 1) for index in range(4)], dtype=kind)
        scipy.io.savemat(folder / path, {"annotations": rows})
        for index in range(4):
            write_picture(folder / f"cars_{part}" / f"{index}.jpg")
    data = find_data(f"stanford_cars:{tmp_path}")
    assert data.class_names == ("Audi A", "BMW B")
    assert [(sample.path.parent.name, sample.path.stem, sample.target) for sample in data.val] == [
        ("cars_test", "0", 0), ("cars_test", "2", 0), ("cars_test", "1", 1), ("cars_test", "3", 1),
    ]  # fmt: skip
    assert {sample.path.parent.name for sample in data.train} == {"cars_train"}


def test_pets(tmp_path: Path) -> None:
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, first in (("trainval", 0), ("test", 5)):
        lines = [
            (f"{name}_{first + index}", target) for target, name in ((1, "Birman"), (2, "pug")) for index in (1, 2)
        ]
        (folder / "annotations" / f"{part}.txt").write_text("".join(f"{name} {target} 1 1\n" for name, target in lines))
        for name, _ in lines:
            write_picture(folder / "images" / f"{name}.jpg")
    data = find_data(f"pets:{tmp_path}")
    assert data.class_names == ("Birman", "Pug")
    assert [(sample.path.stem, sample.target) for sample in data.train] == [
        ("Birman_1", 0), ("Birman_2", 0), ("pug_1", 1), ("pug_2", 1),
    ]  # fmt: skip
    assert [sample.path.stem for sample in data.val] == ["Birman_6", "Birman_7", "pug_6", "pug_7"]


def test_imagenet_has_names_people_can_read(tmp_path: Path) -> None:
    for synset in ("n01443537", "n01440764", "n02012849"):
        write_picture(tmp_path / "val" / synset / "1.JPEG")
    alone = find_samples(f"imagenet:{tmp_path}")
    assert alone.class_names == ("tench", "goldfish", "crane (n02012849)")
    with pytest.raises(DataError, match="classes without training pictures in .*: tench, goldfish"):
        find_data(f"imagenet:{tmp_path}")
    for synset in ("n01440764", "n01443537", "n02012849"):
        write_picture(tmp_path / "train" / synset / "2.JPEG")
    data = find_data(f"imagenet:{tmp_path}")
    assert [(sample.path.parent.name, sample.target) for sample in data.train] == [
        ("n01440764", 0), ("n01443537", 1), ("n02012849", 2),
    ]  # fmt: skip
    network = [f"class {index}" for index in range(7)] + ["goldfish", "crane (n02012849)", "tench"]
    assert [sample.target for sample in find_samples(f"imagenet:{tmp_path}", network).samples] == [7, 8, 9]


def test_imagenet_names_are_different_and_unknown_ids_stay() -> None:
    from timm.data.imagenet_info import ImageNetInfo

    names = imagenet_names(ImageNetInfo().label_names())
    assert len(set(names)) == len(names) == 1000
    assert imagenet_names(["n01440764", "n99999999"]) == ("tench", "n99999999")


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_on_the_disk_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"^{name} is not in [^\n]*: looked for [^\n]*nothing is downloaded\)$"):
        find_data(f"{name}:{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_are_told_and_existing_paths_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"unknown data set 'cifar11' \(did you mean 'cifar10'\?\); known: cifar10,"):
        find_data(f"cifar11:{tmp_path}")
    for name in ("a", "b"):
        for index in range(2):
            write_picture(tmp_path / "odd:name" / name / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    assert find_data("odd:name").class_names == ("a", "b")
