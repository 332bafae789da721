"""Our network against timm's in eager mode: same weights, same pictures, in turns, in one run.

Both are the plain networks people train, not rewritten, float32, contiguous NCHW. Before anything is timed
the two are checked to give the same answer. Writes a record into `results/`, prints a Markdown table.

    python benchmarks/eager_vs_timm.py                      # M0..M5, about 20 minutes on 2 cores
    python benchmarks/eager_vs_timm.py m0 m5 --threads 1    # some
    python benchmarks/eager_vs_timm.py --quick              # does it run at all? seconds, keeps no record
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from same_networks import CONTROL, IMAGE_SIZE, OURS, TIMM, same_networks
from torch import Tensor, nn

from effvit.environment import environment, machine
from effvit.errors import EffvitError
from effvit.files import write_json
from effvit.timing import measure, num_threads, paired_ratio

RECORD = Path(__file__).resolve().parents[1] / "results" / "eager_vs_timm.json"


class Case(NamedTuple):
    """One thing to time."""

    name: str
    """What is done."""
    training: bool
    """Forward and backward in training mode, or forward alone in eval mode."""
    batch_size: int
    """Pictures."""


CASES = (
    Case("forward", False, 1),
    Case("forward", False, 16),
    Case("forward + backward", True, 32),
)


def main() -> int:
    """Measure what was asked for; the exit code."""
    args = _arguments()
    rows = []
    for name in args.models:
        pair = same_networks(f"efficientvit_{name}")
        for threads in args.threads:
            for case in CASES:
                print(f"{name}, {threads} thread(s), {case.name}, batch {case.batch_size}", file=sys.stderr)
                rows.append(_measure(name, pair, case, threads, args))
    record = {
        "benchmark": "eager_vs_timm",
        "command": _command(args),
        "protocol": {
            "image_size": [IMAGE_SIZE, IMAGE_SIZE],
            "rounds": args.rounds,
            "min_round_seconds": args.round_seconds,
            "warmup_seconds": args.warmup_seconds,
            "dtype": "float32",
            "layout": "contiguous NCHW",
            "timed": "ours, timm's and ours again take turns; ratios are medians over rounds",
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
    name: str, pair: dict[str, nn.Module], case: Case, threads: int, args: argparse.Namespace
) -> dict[str, Any]:
    images = torch.randn(case.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
    targets = torch.arange(case.batch_size)
    build = _training_step if case.training else _inference
    models = {**pair, CONTROL: pair[OURS]}
    with num_threads(threads), torch.inference_mode(mode=not case.training):
        calls = {label: build(model, images, targets) for label, model in models.items()}
        timings = measure(
            calls,
            rounds=args.rounds,
            min_round_seconds=args.round_seconds,
            warmup_seconds=args.warmup_seconds,
        )
    return {
        "model": name,
        "case": case.name,
        "batch_size": case.batch_size,
        "num_threads": threads,
        "timm_over_ours": paired_ratio(timings[TIMM], timings[OURS])._asdict(),
        "control_over_ours": paired_ratio(timings[CONTROL], timings[OURS])._asdict(),
        "timings": {label: timing.to_dict() for label, timing in timings.items()},
    }


def _inference(model: nn.Module, images: Tensor, targets: Tensor) -> Callable[[], object]:
    model.eval()
    return lambda: model(images)


def _training_step(model: nn.Module, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """Forward, loss and backward; gradients are made anew, as a training loop does."""
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), targets).backward()

    return step


def _table(record: dict[str, Any]) -> str:
    lines = [
        machine(record["environment"]),
        "",
        "| model | case | batch | threads | ours ms | timm ms | timm / ours (quartiles) | control |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *map(_table_row, record["rows"]),
    ]
    return "\n".join(lines)


def _table_row(row: dict[str, Any]) -> str:
    ratio, control = row["timm_over_ours"], row["control_over_ours"]
    latencies = [f"{row['timings'][label]['latency_ms']:.2f}" for label in (OURS, TIMM)]
    cells = (
        row["model"],
        row["case"],
        f"{row['batch_size']}",
        f"{row['num_threads']}",
        *latencies,
        f"{ratio['median']:.3f} ({ratio['p25']:.3f}-{ratio['p75']:.3f})",
        f"{control['median']:.3f} ({control['p25']:.3f}-{control['p75']:.3f})",
    )
    return f"| {' | '.join(cells)} |"


def _command(args: argparse.Namespace) -> str:
    """The command without the place of the record, which is nobody else's."""
    threads = " ".join(map(str, args.threads))
    length = "--quick" if args.quick else f"--rounds {args.rounds}"
    return f"python benchmarks/eager_vs_timm.py {' '.join(args.models)} --threads {threads} {length}"


def _arguments() -> argparse.Namespace:
    names = [f"m{index}" for index in range(6)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=names, metavar="m0..m5", help="which (default: all)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default: 15)")
    parser.add_argument("--quick", action="store_true", help="m0 alone unless named, 2 short rounds, no record")
    parser.add_argument("--output", type=Path, help="record to write (default: results/, none with --quick)")
    args = parser.parse_args()
    if unknown := set(args.models) - set(names):
        parser.error(f"unknown models {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    args.round_seconds, args.warmup_seconds = (0.05, 0.0) if args.quick else (0.3, 1.0)
    if args.quick:
        args.rounds = 2
        args.models = ["m0"] if args.models == names else args.models
    elif args.output is None:
        args.output = RECORD
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffvitError as error:
        sys.exit(f"error: {error}")
