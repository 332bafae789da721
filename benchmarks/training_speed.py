"""A whole step of training, ours against timm's: same weights, same pictures, in turns, in one run.

A step is forward pass, label-smoothed loss, backward pass, adaptive clipping, AdamW and the moving average of the
weights: what the paper's recipe does to a batch that is ready. Ours is `effvit.train.learner`, which is what
`effvit train` runs; timm's is the step of timm's own training script. Each as it is, in channels_last, and compiled.

    python benchmarks/training_speed.py                # M0 and M5, one thread, about 10 minutes
    python benchmarks/training_speed.py m0 --threads 2 # some
    python benchmarks/training_speed.py --quick        # does it run at all? keeps no record
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from same_networks import CONTROL, IMAGE_SIZE, OURS, TIMM, same_networks
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

from effvit.deploy.speed.report import spread_text
from effvit.environment import environment, machine
from effvit.errors import EffvitError
from effvit.files import write_json
from effvit.timing import Spread, measure, num_threads, paired_ratio
from effvit.train.config import TrainConfig
from effvit.train.learner import Learner, MicroBatch
from effvit.train.losses import classifier_loss, make_criterion

RECORD = Path(__file__).resolve().parents[1] / "results" / "training_speed.json"
BATCH_SIZES = {"m0": 64, "m5": 16}
NUM_CLASSES = 1000
FORMS: dict[str, dict[str, bool]] = {
    "eager": {},
    "channels_last": {"channels_last": True},
    "compiled": {"compile": True},
}
"""Settings of `TrainConfig` that change how a step is computed and not what."""
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-5,  # small, so that the weights stay what they are while they are timed
    "min_learning_rate": 0.0,
    "weight_decay": 0.025,
    "label_smoothing": 0.1,
    "clip_grad": 0.02,
    "ema_decay": 0.99996,
}
"""The same for ours and timm's."""

Step = Callable[[], object]


def main() -> int:
    """Measure what was asked for; the exit code."""
    args = _arguments()
    rows = [row for name in args.models for row in _measure(name, args)]
    record = {
        "benchmark": "training_speed",
        "command": _command(args),
        "protocol": {
            "image_size": [IMAGE_SIZE, IMAGE_SIZE],
            "num_threads": args.threads,
            "rounds": args.rounds,
            "min_round_seconds": args.round_seconds,
            "warmup_seconds": args.warmup_seconds,
            "dtype": "float32",
            "step": "forward, loss, backward, adaptive clipping, AdamW, moving average",
            "settings": SETTINGS,
            "timed": "all forms of both, and ours again, take turns; ratios are medians over rounds",
        },
        "environment": environment(),
        "rows": rows,
    }
    print(table(record))
    if args.output is not None:
        write_json(args.output, record)
        print(f"record: {args.output.name}", file=sys.stderr)
    return 0


def our_step(model: nn.Module, images: Tensor, targets: Tensor, *, config: TrainConfig) -> Step:
    """A step of `effvit train`."""
    learner = Learner(model, config, classifier_loss(make_criterion(config, [1] * NUM_CLASSES)), torch.device("cpu"))
    learner.begin_epoch(0)
    batch = [MicroBatch(images, targets)]
    return lambda: learner.step(
        batch, num_pictures=len(targets), learning_rate=config.peak_learning_rate, number=0
    ).item()


def timm_step(model: nn.Module, images: Tensor, targets: Tensor, *, config: TrainConfig) -> Step:
    """A step of timm's training script, made of its parts with its defaults where the settings say nothing."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout).train()  # type: ignore[call-overload]
    criterion = LabelSmoothingCrossEntropy(config.label_smoothing)
    optimizer = create_optimizer_v2(model, "adamw", lr=config.learning_rate, weight_decay=config.weight_decay)
    average = ModelEmaV3(model, decay=config.ema_decay)
    called = torch.compile(model) if config.compile else model

    def step() -> float:
        loss = criterion(called(images.contiguous(memory_format=layout)), targets)
        loss.backward()
        dispatch_clip_grad(model.parameters(), value=config.clip_grad, mode="agc")
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        return float(loss.item())

    return step


def steps_of(pair: dict[str, nn.Module], images: Tensor, targets: Tensor) -> dict[str, Step]:
    """Every step to time, by `whose, form`; each on a network of its own, all with the same weights."""
    builders = {OURS: our_step, TIMM: timm_step}
    configs = {form: TrainConfig(**SETTINGS, **switches) for form, switches in FORMS.items()}
    steps = {
        f"{whose}, {form}": build(copy.deepcopy(pair[whose]), images, targets, config=config)
        for form, config in configs.items()
        for whose, build in builders.items()
    }
    again = our_step(copy.deepcopy(pair[OURS]), images, targets, config=configs["eager"])
    return {**steps, f"{CONTROL}, eager": again}


def _measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    batch_size = 2 if args.quick else BATCH_SIZES[name]
    images = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    targets = torch.arange(batch_size)
    with num_threads(args.threads):
        steps = steps_of(same_networks(f"efficientvit_{name}"), images, targets)
        for label, step in steps.items():
            print(f"{name}: {label}", file=sys.stderr)  # a compiled one takes a minute or two here
            step()
        timings = measure(
            steps,
            rounds=args.rounds,
            min_round_seconds=args.round_seconds,
            warmup_seconds=args.warmup_seconds,
            on_round=lambda done, total: print(f"{name}: round {done} of {total}", file=sys.stderr),
        )
    rows = []
    for label, timing in timings.items():
        whose, form = label.split(", ")
        ours = timings[f"{OURS}, {form}"]
        rows.append(
            {
                "model": name,
                "whose": whose,
                "form": form,
                "batch_size": batch_size,
                "images_per_second": batch_size / timing.latency_ms * 1e3,
                "time_over_ours": None if whose == OURS else paired_ratio(timing, ours)._asdict(),
                "timing": timing.to_dict(),
            }
        )
    return rows


def table(record: dict[str, Any]) -> str:
    """The record in Markdown, for docs/learning.md."""
    rows = {(row["model"], row["form"], row["whose"]): row for row in record["rows"]}
    lines = [
        f"{machine(record['environment'])}; {record['protocol']['num_threads']} thread(s).",
        "",
        "| model | batch | form | ours images/s | timm images/s | timm's time / ours (quartiles) | control |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for (model, form, whose), ours in rows.items():
        if whose != OURS:
            continue
        rival, control = rows[model, form, TIMM], rows.get((model, form, CONTROL))
        cells = (
            model,
            f"{ours['batch_size']}",
            form,
            f"{ours['images_per_second']:.0f}",
            f"{rival['images_per_second']:.0f}",
            spread_text(Spread(**rival["time_over_ours"])),
            "" if control is None else spread_text(Spread(**control["time_over_ours"])),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _command(args: argparse.Namespace) -> str:
    """The command without the place of the record, which is nobody else's."""
    length = "--quick" if args.quick else f"--rounds {args.rounds}"
    return f"python benchmarks/training_speed.py {' '.join(args.models)} --threads {args.threads} {length}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(BATCH_SIZES), metavar="MODEL", help="m0, m5 (default: both)")
    parser.add_argument("--threads", type=int, default=1, help="thread count (default: 1)")
    parser.add_argument("--rounds", type=int, default=12, help="interleaved rounds (default: 12)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of batch 2, no record")
    parser.add_argument("--output", type=Path, help="record to write (default: results/, none with --quick)")
    args = parser.parse_args()
    if unknown := set(args.models) - set(BATCH_SIZES):
        parser.error(f"unknown models {', '.join(sorted(unknown))}; known: {', '.join(BATCH_SIZES)}")
    args.round_seconds, args.warmup_seconds = (0.0, 0.0) if args.quick else (0.3, 1.0)
    if args.quick:
        args.rounds = 2
    elif args.output is None:
        args.output = RECORD
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffvitError as error:
        sys.exit(f"error: {error}")
