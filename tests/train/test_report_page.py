from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from effvit.data.datasets import PictureData, find_data
from effvit.data.loaders import PictureLoader
from effvit.data.shard_writer import pack
from effvit.data.transforms import eval_transform
from effvit.errors import RunError
from effvit.files import read_json, write_json
from effvit.preprocessing import Preprocessing
from effvit.train.config import TrainConfig
from effvit.train.evaluate import evaluate
from effvit.train.figures import write_curves
from effvit.train.records import EpochRecord
from effvit.train.report import write_evaluation
from effvit.train.report_page import write_report
from effvit.train.runs import RunFolder

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """The text of a page, its pictures, and whether every tag that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.pictures: list[str] = []
        self.sources: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


@pytest.fixture(scope="module")
def original(data: PictureData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("<b>bold & co</b>", *data.class_names[1:])
    return evaluated_run(tmp_path_factory.mktemp("original") / "run", replace(data, class_names=names)).path


def evaluated_run(path: Path, data: PictureData) -> RunFolder:
    """A run folder as training and evaluation leave it, with made-up numbers and real photos."""
    config = TrainConfig(epochs=3, batch_size=8, preprocessing=Preprocessing(image_size=(32, 32)))
    run = RunFolder.create(path, config, data, command="effvit train 'a <folder>'")
    history = [
        EpochRecord(epoch=n, learning_rate=1 / n, train_loss=2 / n, val_loss=1 / n, val_top1=n / 4,
                    num_unreadable=n - 1, pictures_per_second=1, seconds=90)
        for n in (1, 2)
    ]  # fmt: skip
    run.write_metrics(asdict(record) for record in history)
    write_curves(run.path / "curves.png", history)
    run.finish("finished")
    loader = PictureLoader(data.val, eval_transform(config.preprocessing), batch_size=4)
    weight = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    evaluation = evaluate(
        lambda batch: batch.mean(dim=(2, 3)) @ batch.new_tensor(weight),
        loader,
        class_names=data.class_names,
        preprocessing=config.preprocessing,
    )
    write_evaluation(run.path / "eval", replace(evaluation, unreadable=("cannot read picture x.jpg: y",)))
    return run


@pytest.fixture
def finished(original: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(original, tmp_path / "run")))


def words_of(run: RunFolder) -> str:
    """The text of a run's page, with single spaces."""
    return " ".join(Page(write_report(run).read_text(encoding="utf-8")).text.split())


def test_page_is_whole_and_needs_nothing_else(finished: RunFolder, data: PictureData) -> None:
    path = write_report(finished)
    html = path.read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    page = Page(html)
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert "http" not in html and "@import" not in html and "url(" not in html
    num_drawings = 3  # curves, confusion, calibration
    assert len(page.pictures) >= num_drawings + len(data.val)  # every held-out photo is among the least sure
    assert len(html) < 3e6


def test_page_says_what_was_trained_and_how_it_did(finished: RunFolder) -> None:
    text = words_of(finished)
    for words in (
        "% top-1", "95 % interval", "on 6 held-out pictures", "24 training pictures of 3 classes",
        "2 of 3 epochs in 3 minutes; the best", "left out: 1 in the worst epoch",
        "was epoch 2 with top-1 50.0%", "effvit train 'a <folder>'", "<b>bold & co</b>", "cannot read picture x.jpg: y",
        "augmentation.color_jitter", "calibration error", "torch", "6 held out: a share of each class",
    ):  # fmt: skip
        assert words in text, words


def test_page_without_evaluation_or_pictures_or_epochs(finished: RunFolder) -> None:
    root = finished.read_record()["data_root"]
    predictions = finished.path / "eval" / "predictions.json"
    predictions.write_text(predictions.read_text(encoding="utf-8").replace(root, "/nowhere"), encoding="utf-8")
    finished.update_record(data_root="/nowhere")
    without_photos = Page(write_report(finished).read_text(encoding="utf-8"))
    assert len(without_photos.pictures) == 3 and "% top-1" in without_photos.text
    assert "nowhere" in without_photos.text.partition("Run run")[0]  # what it was trained on is the page's title
    assert "The photos cannot be shown" in without_photos.text
    shutil.rmtree(finished.path / "eval")
    finished.update_record(data_root=root)
    assert "Not evaluated yet" in Page(write_report(finished).read_text(encoding="utf-8")).text
    (finished.path / "metrics.jsonl").unlink()
    assert "no epoch is done yet" in Page(write_report(finished).read_text(encoding="utf-8")).text


def test_page_of_a_run_that_stopped_early_with_an_average_says_so(finished: RunFolder) -> None:
    record = finished.read_record()
    finished.update_record(config={**record["config"], "patience": 1, "ema_decay": 0.9})
    epochs = [{**epoch, "val_top1_ema": 0.9 / epoch["epoch"], "val_loss_ema": 1.0} for epoch in finished.read_metrics()]
    finished.write_metrics(epochs)
    text = words_of(finished)
    assert "2 of 3 epochs in 3 minutes, stopped after 1 without a better one" in text
    assert "epoch 1 with top-1 90.0%, by the moving average of its weights" in text
    assert "A moving average of the weights, decay 0.9." in text


def test_page_of_a_run_whose_patience_ends_with_its_epochs_does_not_say_it_was_stopped(finished: RunFolder) -> None:
    finished.update_record(config={**finished.read_record()["config"], "patience": 1, "epochs": 2})
    finished.write_metrics({**epoch, "val_top1": 0.9 / epoch["epoch"]} for epoch in finished.read_metrics())
    text = words_of(finished)
    assert "2 epochs in 3 minutes; the best, kept in weights/, was epoch 1" in text
    assert "stopped after" not in text


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("folders", "6 held out: its own validation folder."),
        ("given", "6 held out: as the source itself has them."),
        ("seeded", "6 held out: a share of each class, drawn by the seed."),
    ],
)
def test_page_says_where_the_held_out_pictures_come_from(split: str, words: str, finished: RunFolder) -> None:
    path = finished.path / "split.json"
    write_json(path, {**read_json(path), "split": split})
    assert words in words_of(finished)


def lose_the_folder(root: Path) -> None:
    shutil.rmtree(root)


def lose_a_shard(root: Path) -> None:
    next(root.glob("val-*.tar")).unlink()


def spoil_a_shard(root: Path) -> None:
    next(root.glob("train-*.tar")).write_bytes(b"no tar")


def empty_the_shards(root: Path) -> None:
    for shard in root.glob("*.tar"):
        with tarfile.open(shard, "w"):
            pass


@pytest.mark.parametrize("lose", [lose_the_folder, lose_a_shard, spoil_a_shard, empty_the_shards])
def test_page_of_a_run_on_shards_that_are_gone(lose: Callable[[Path], None], data: PictureData, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    pack(data, root)
    run = evaluated_run(tmp_path / "run", find_data(root))
    whole = Page(write_report(run).read_text(encoding="utf-8"))
    assert len(whole.pictures) > 3 and "cannot be shown" not in whole.text
    lose(root)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "The photos cannot be shown" in page.text and str(root) in page.text
    assert len(page.pictures) == 3  # curves, confusion, calibration
    assert "24 training pictures of 3 classes" in " ".join(page.text.split()) and "% top-1" in page.text


def test_page_of_a_run_whose_folder_was_emptied(data: PictureData, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(data.root, root)
    run = evaluated_run(tmp_path / "run", find_data(root))
    assert "cannot be shown" not in words_of(run)
    shutil.rmtree(root)
    root.mkdir()
    assert f"none of the 6 held-out pictures is in {root} any more" in words_of(run)


def test_damaged_split_is_one_line(finished: RunFolder) -> None:
    (finished.path / "split.json").write_text('{"split": "seeded"}')
    with pytest.raises(RunError, match=r"split\.json is not what a run writes"):
        write_report(finished)


def test_damaged_evaluation_is_one_line(finished: RunFolder) -> None:
    (finished.path / "eval" / "summary.json").write_text("{}")
    with pytest.raises(RunError, match=r"eval is not what an evaluation writes.*effvit eval"):
        write_report(finished)
    (finished.path / "metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl is not what a run writes"):
        write_report(finished)
