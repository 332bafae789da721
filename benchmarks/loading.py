"""Our loader against timm's `create_loader`: same photos, same augmentation, in turns, in one run.

Each call reads, decodes, augments and normalises a whole set of real photos, up to the float32 batch that a network
is fed, on one thread: once in the process itself, once with one worker. Before anything is timed the two transforms
are checked to give the same pictures for the same seeds. Writes a record into `results/`, prints a Markdown table.

    python benchmarks/loading.py                   # about 2 minutes on 2 cores
    python benchmarks/loading.py --data DIR        # where the test data is (default: as the tests)
    python benchmarks/loading.py --quick           # does it run at all? seconds, keeps no record
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data.dataset import ImageDataset
from timm.data.loader import create_loader
from timm.data.transforms_factory import create_transform

from effvit.data.augmentation import Augmentation
from effvit.data.datasets import find_samples
from effvit.data.decoding import open_for_training
from effvit.data.loaders import PictureLoader
from effvit.data.mixing import Eraser
from effvit.data.order import Order
from effvit.data.rand_augment import mend_posterize
from effvit.data.randomness import seeded
from effvit.data.transforms import normalize, train_transform
from effvit.environment import environment, machine
from effvit.errors import EffvitError
from effvit.files import write_json
from effvit.preprocessing import Preprocessing
from effvit.timing import Timing, measure, num_threads, paired_ratio

REPOSITORY = Path(__file__).resolve().parents[1]
RECORD = REPOSITORY / "results" / "loading.json"
OURS, TIMM, CONTROL = "ours", "timm", "ours again"
BATCH_SIZE = 32
"""Pictures in a batch, or all there are; larger sets are multiples, because timm's loader drops what is left over."""
QUICK_COUNT = 8
"""Photos of each set with --quick."""
LARGE_MEGAPIXELS = 12
MOST_DIFFERENCE = 4.0
"""Mean difference between our pictures and timm's, in levels of 255, above which they are not taken for the same."""


class PhotoSet(NamedTuple):
    """Photos to load."""

    name: str
    about: str
    count: int
    write: Callable[[Path, Path, int], None]
    """Called with the test data, the folder to write into and the count."""
    sizes: tuple[int, ...]
    """Sides of the network's input, in pixels."""


RECIPES = {
    "crop, flip, jitter": Augmentation(crop_scale=(0.08, 1.0), color_jitter=0.4),
    "ImageNet's": Augmentation(
        crop_scale=(0.08, 1.0), rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, erasing_mode="pixel"
    ),
}


def main() -> int:
    """Measure everything; the exit code."""
    args = _arguments()
    rows = []
    with tempfile.TemporaryDirectory() as folder, num_threads(1):
        for photos in PHOTO_SETS:
            root = Path(folder) / photos.name.replace(" ", "_")
            count = QUICK_COUNT if args.quick else photos.count
            photos.write(args.data, root / "photos", count)
            for size in photos.sizes[-1:] if args.quick else photos.sizes:
                _check_same_pictures(root, size)
                for recipe in RECIPES:
                    for num_workers in (0, 1):
                        print(f"{photos.name}, {size} px, {recipe}, {num_workers} worker(s)", file=sys.stderr)
                        timings = _measure(root, size, RECIPES[recipe], num_workers, args)
                        rows.append(_row(photos, count, size, recipe, num_workers, timings))
        record = {
            "benchmark": "loading",
            "command": f"python benchmarks/loading.py --rounds {args.rounds}{' --quick' if args.quick else ''}",
            "protocol": {
                "photo_sets": {photos.name: photos.about for photos in PHOTO_SETS},
                "recipes": {name: augmentation.to_dict() for name, augmentation in RECIPES.items()},
                "rounds": args.rounds,
                "batch_size": BATCH_SIZE,
                "num_threads": 1,
                "timed": "one pass over the photos, from files to normalised float32 batches on the CPU; ours, timm's "
                "and ours again take turns; ratios are medians over rounds",
                "timm": "create_loader with its defaults (prefetcher on) on the CPU; its posterising to 0 bits, which "
                "Pillow 13 refuses, gives black in both",
            },
            "environment": environment(),
            "rows": rows,
        }
    print(_table(record))
    if args.output is not None:
        write_json(args.output, record)
        print(f"record: {args.output.name}", file=sys.stderr)
    return 0


def _measure(
    root: Path, size: int, augmentation: Augmentation, num_workers: int, args: argparse.Namespace
) -> dict[str, Timing]:
    calls = {
        OURS: _our_pass(root, size, augmentation, num_workers),
        TIMM: _timm_pass(root, size, augmentation, num_workers),
        CONTROL: _our_pass(root, size, augmentation, num_workers),
    }
    return measure(calls, rounds=args.rounds, min_round_seconds=0.0, warmup_seconds=args.warmup_seconds)


def _our_pass(root: Path, size: int, augmentation: Augmentation, num_workers: int) -> Callable[[], None]:
    preprocessing = Preprocessing(image_size=(size, size))
    samples = find_samples(root).samples
    loader = PictureLoader(
        samples,
        train_transform(preprocessing, augmentation),
        batch_size=min(BATCH_SIZE, len(samples)),
        order=Order.SHUFFLE,
        num_workers=num_workers,
    )
    eraser = Eraser(augmentation) if augmentation.random_erasing else None
    epochs = iter(range(10**9))

    def load() -> None:
        for step, batch in enumerate(loader.batches(next(epochs))):
            images = normalize(batch.images, preprocessing)
            if eraser is not None:
                eraser(images, seed=step)

    return load


def _timm_pass(root: Path, size: int, augmentation: Augmentation, num_workers: int) -> Callable[[], None]:
    dataset = ImageDataset(str(root))
    loader = create_loader(
        dataset,
        input_size=(3, size, size),
        batch_size=min(BATCH_SIZE, len(dataset)),
        is_training=True,
        scale=augmentation.crop_scale,
        color_jitter=augmentation.color_jitter,
        auto_augment=augmentation.rand_augment or None,
        re_prob=augmentation.random_erasing,
        re_mode=augmentation.erasing_mode,
        interpolation="bicubic",
        num_workers=num_workers,
        device=torch.device("cpu"),
    )
    for step in dataset.transform.transforms:
        if hasattr(step, "ops"):
            mend_posterize(step)

    def load() -> None:
        for _ in loader:
            pass

    return load


def _check_same_pictures(root: Path, size: int) -> None:
    """Refuse to go on if the two give other pictures; without RandAugment, which makes much of a little rounding."""
    preprocessing, augmentation = Preprocessing(image_size=(size, size)), RECIPES["crop, flip, jitter"]
    ours = train_transform(preprocessing, augmentation)
    theirs = create_transform(size, is_training=True, use_prefetcher=True, interpolation="bicubic")
    for seed, sample in enumerate(find_samples(root).samples[:QUICK_COUNT]):
        with seeded(seed):
            mine = ours(open_for_training(sample)).float()
        with seeded(seed):
            other = torch.as_tensor(theirs(Image.open(sample.path).convert("RGB"))).float()
        if (difference := float((mine - other).abs().mean())) > MOST_DIFFERENCE:
            raise EffvitError(
                f"ours and timm's are not the same picture: mean difference {difference:.2f} of 255 (allowed: "
                f"{MOST_DIFFERENCE:g}) at {size} px, seed {seed}"
            )


def _write_shop_photos(data: Path, folder: Path, count: int) -> None:
    """Photos of the grocery store set, spread over its classes."""
    folder.mkdir(parents=True)
    with tarfile.open(data / "grocery_store" / "train.tar") as archive:
        members = [member for member in archive.getmembers() if member.name.endswith(".jpg")]
        for index in range(count):
            content = archive.extractfile(members[index * len(members) // count])
            assert content is not None
            (folder / f"{index:04d}.jpg").write_bytes(content.read())


def _write_scenes(data: Path, folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for path in _scenes(data)[:count]:
        shutil.copy(path, folder)


def _write_large(data: Path, folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for path in _scenes(data)[:count]:
        with Image.open(path) as picture:
            factor = (LARGE_MEGAPIXELS * 1e6 / (picture.width * picture.height)) ** 0.5
            size = (round(picture.width * factor), round(picture.height * factor))
            picture.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(folder / path.name, quality=90)


def _scenes(data: Path) -> list[Path]:
    return sorted((data / "coco_mini" / "train").glob("*.jpg"))


PHOTO_SETS = (
    PhotoSet("shop", "grocery_store: photos with a short side of 160 pixels", 96, _write_shop_photos, (128, 224)),
    PhotoSet("scenes", "coco_mini: photos of about 640 x 480 pixels", 32, _write_scenes, (224,)),
    PhotoSet(
        "large",
        f"coco_mini, upscaled to {LARGE_MEGAPIXELS} megapixels, saved at quality 90: a camera's size, not its detail",
        8,
        _write_large,
        (224,),
    ),
)


def _row(
    photos: PhotoSet, count: int, size: int, recipe: str, num_workers: int, timings: dict[str, Timing]
) -> dict[str, Any]:
    return {
        "photos": photos.name,
        "num_pictures": count,
        "image_size": [size, size],
        "recipe": recipe,
        "num_workers": num_workers,
        "pictures_per_second": {label: 1e3 * count / timing.latency_ms for label, timing in timings.items()},
        "timm_over_ours": paired_ratio(timings[TIMM], timings[OURS])._asdict(),
        "control_over_ours": paired_ratio(timings[CONTROL], timings[OURS])._asdict(),
        "timings": {label: timing.to_dict() for label, timing in timings.items()},
    }


def _table(record: dict[str, Any]) -> str:
    lines = [
        machine(record["environment"]),
        "",
        "| photos | input | augmentation | workers | ours /s | timm /s | timm / ours (quartiles) | control |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
        *map(_table_row, record["rows"]),
    ]
    return "\n".join(lines)


def _table_row(row: dict[str, Any]) -> str:
    ratio, control = row["timm_over_ours"], row["control_over_ours"]
    cells = (
        row["photos"],
        f"{row['image_size'][0]}",
        row["recipe"],
        f"{row['num_workers']}",
        *(f"{row['pictures_per_second'][label]:.0f}" for label in (OURS, TIMM)),
        f"{ratio['median']:.2f} ({ratio['p25']:.2f}-{ratio['p75']:.2f})",
        f"{control['median']:.2f} ({control['p25']:.2f}-{control['p75']:.2f})",
    )
    return f"| {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    data = Path(os.environ.get("EFFVIT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=data, help="folder of grocery_store/ and coco_mini/")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of a few photos, no record")
    parser.add_argument("--output", type=Path, help="record to write (default: results/, none with --quick)")
    args = parser.parse_args()
    args.warmup_seconds = 0.0 if args.quick else 0.5
    if not (args.data / "grocery_store" / "train.tar").is_file():
        parser.error("no test data: give its folder with --data or EFFVIT_TEST_DATA")
    args.rounds = 2 if args.quick else args.rounds
    args.output = args.output or (None if args.quick else RECORD)
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffvitError as error:
        sys.exit(f"error: {error}")
