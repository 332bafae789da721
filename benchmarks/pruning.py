"""Does pruning pay? Train on real photos, prune by Taylor scores, fine-tune; accuracy and measured speed of each.

    full       the network, trained from scratch with the recipe scratch_small
    pruned     full, cut to the limit by `effvit analyze prune`, and fine-tuned
    control    full, not cut, fine-tuned just as long: what the extra epochs alone are worth
    scratch    the pruned network's shape from random weights, trained as long as full and the fine-tuning together

    python benchmarks/pruning.py --data PHOTOS --folder WORK                     # M2, 30 % of the MACs
    python benchmarks/pruning.py --data PHOTOS --folder WORK --orders per_cost plain --seeds 0 1 2
    python benchmarks/pruning.py --data PHOTOS --folder WORK --quick             # does it run at all?

PHOTOS holds train/CLASS/ and val/CLASS/. WORK keeps every run: what is finished there is not trained again, and what
was interrupted goes on. The record, `results/pruning/record.json`, shows all that this command asked for.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from effvit import create_model, load
from effvit.analysis.pruning.costs import config_cost
from effvit.analysis.pruning.knobs import KIND_NAMES
from effvit.analysis.pruning.limits import parse_limit
from effvit.analysis.report import write_report
from effvit.cli.pruning_jobs import Timed, prune_model
from effvit.cli.pruning_pictures import Scoring
from effvit.data.datasets import find_data
from effvit.deploy.rewrite import rewrite
from effvit.deploy.speed.report import spread_text
from effvit.environment import environment
from effvit.errors import EffvitError
from effvit.files import make_output_folder, read_json, write_json
from effvit.model.network import EfficientViT
from effvit.timing import Spread, measure, num_threads, paired_ratio
from effvit.train.classification import fit
from effvit.train.config import TrainConfig
from effvit.train.recipes import recipe
from effvit.train.runs import RunFolder

RESULTS = Path(__file__).resolve().parents[1] / "results" / "pruning"
FINE_TUNING_RATE = 0.25
"""Learning rate of the fine-tuning over that of the training: the network is to mend, not to start anew."""
BATCH_SIZES = (1, 16)


def main() -> int:
    """Train and prune what is not there yet, measure, write the record; the exit code."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    folder = make_output_folder(args.folder)
    rows: list[dict[str, Any]] = []
    networks: dict[str, EfficientViT] = {}
    for seed in args.seeds:
        results, found = _one_seed(args, folder / f"seed{seed}", seed)
        rows += results
        networks = networks or found  # shapes differ little between seeds: the first one's are timed
    record = {
        "benchmark": "pruning",
        "command": _command(args),
        "model": args.model,
        "limit": args.limit,
        "data": _about(args.data),
        "config": _config(args, 0).to_dict(),
        "fine_tuning": _tuning(args, 0).to_dict(),
        "environment": environment(),
        "rows": rows,
        "speed": _speed(networks, args),
    }
    print(table(record))
    if args.output is not None:
        write_json(make_output_folder(args.output) / "record.json", record)
        print("record: record.json", file=sys.stderr)
    return 0


def table(record: dict[str, Any]) -> str:
    """Accuracy of each network and seed, and what the pruned ones are faster by, in Markdown."""
    lines = [
        "| network | seed | M MACs | M parameters | top-1 %, before fine-tuning | top-1 %, last epoch |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in record["rows"]:
        before = "" if row["top1_before"] is None else f"{100 * row['top1_before']:.1f}"
        lines.append(
            f"| {row['network']} | {row['seed']} | {row['num_macs'] / 1e6:.4g} | {row['num_params'] / 1e6:.4g} |"
            f" {before} | {100 * row['top1']:.1f} |"
        )
    lines += ["", "| deploy form | batch | ms | times as fast as full (quartiles) |", "| --- | ---: | ---: | ---: |"]
    for row in record["speed"]:
        ratio = spread_text(Spread(*row["speedup"]))
        lines.append(f"| {row['network']} | {row['batch_size']} | {row['latency_ms']:.3g} | {ratio} |")
    return "\n".join(lines)


def _one_seed(
    args: argparse.Namespace, folder: Path, seed: int
) -> tuple[list[dict[str, Any]], dict[str, EfficientViT]]:
    data = find_data(args.data)
    config, tuning = _config(args, seed), _tuning(args, seed)
    torch.manual_seed(seed)  # the initial weights
    size = config.preprocessing.image_size
    full = create_model(
        args.model,
        num_classes=len(data.class_names),
        image_size=size,
        window=config.window or None,
        drop_path=config.drop_path,
    )
    rows = [_row("full", seed, full, _train(full, config, args.data, folder / "full"))]
    trained = RunFolder.open(folder / "full").last_weights
    networks = {"full": load(trained)[0]}
    for order in args.orders:
        name = "pruned" if order == "per_cost" else f"pruned, {order}"
        found = _prune(args, order, folder, trained, seed)
        small = load(folder / order)[0]
        networks[name] = small
        before = found["before_fine_tuning"]["pruned"]["top1"]
        history = _train(small.train(), tuning, args.data, folder / f"pruned-{order}")
        rows.append(_row(name, seed, small, history, before))
        if args.scratch:
            torch.manual_seed(seed)
            fresh = EfficientViT(small.config)
            whole = replace(config, epochs=config.epochs + tuning.epochs)
            history = _train(fresh, whole, args.data, folder / f"scratch-{order}")
            rows.append(_row(f"scratch, shape of {name}", seed, fresh, history))
    control = load(trained)[0].train()
    rows.append(_row("control", seed, control, _train(control, tuning, args.data, folder / "control")))
    return rows, networks


def _prune(args: argparse.Namespace, order: str, folder: Path, weights: Path, seed: int) -> dict[str, Any]:
    """Score and cut, unless that is done; what `effvit analyze prune` records."""
    place = folder / order
    if not (place / "page.html").is_file():  # what is written last
        # Every training picture once, at the size that the network was trained with.
        scoring = Scoring(num_batches=args.batches, batch_size=32, seed=seed, num_workers=args.workers, device="cpu")
        report = prune_model(
            str(weights),
            str(args.data),
            parse_limit(args.limit),
            weights=None,
            image_size=None,
            kinds=tuple(KIND_NAMES),  # type: ignore[arg-type]  # its keys are the kinds
            order=order,  # type: ignore[arg-type]  # one of the parser's choices
            multiple=8,
            min_share=0.1,
            scoring=scoring,
            timed=Timed(batch_size=1, num_threads=args.threads),
            output=make_output_folder(place),
            command=_command(args),
        )
        write_report(report, place)
    found: dict[str, Any] = read_json(place / "record.json")
    if (found["plan"]["limit"], found["plan"]["order"]) != (str(parse_limit(args.limit)), order):
        raise EffvitError(f"{place.name} in {folder.name} was pruned with other settings; give another --folder")
    if args.output is not None and seed == args.seeds[0]:
        kept = make_output_folder(args.output / order)
        for path in place.iterdir():
            if path.is_file():  # the report; the weights stay
                shutil.copy(path, kept)
    return found


def _train(network: EfficientViT, config: TrainConfig, photos: Path, folder: Path) -> Sequence[Any]:
    """Train into a run folder, or go on where it was interrupted; a record for each epoch."""
    resume = (folder / "run.json").is_file()
    data = find_data(photos)
    run = RunFolder.open(folder) if resume else RunFolder.create(folder, config, data)
    before = run.read_config()
    if replace(before, num_workers=config.num_workers) != config:
        raise EffvitError(f"{folder.name} was trained with other settings; give another --folder")
    if not resume:
        run.update_record(network=network.config.to_dict())
    elif run.read_network() != network.config:
        raise EffvitError(f"{folder.name} was trained with another network; give another --folder")
    label = f"{folder.parent.name} {folder.name}"
    history = fit(
        network,
        data,
        config,
        run,
        resume=resume,
        on_epoch=lambda record: print(
            f"{label}, epoch {record.epoch} of {config.epochs}: {record.val_top1:.1%}, {record.seconds:.0f} s",
            file=sys.stderr,
        ),
    )
    return history


def _row(
    name: str, seed: int, network: EfficientViT, history: Sequence[Any], before: float | None = None
) -> dict[str, Any]:
    """What a network costs and reached; top-1 is of the weights that a run leaves: averaged ones, if it has them."""
    cost, last = config_cost(network.config), history[-1]
    return {
        "network": name,
        "seed": seed,
        "num_macs": cost.macs,
        "num_params": cost.params,
        "top1_before": before,
        "top1": last.val_top1 if last.val_top1_ema is None else last.val_top1_ema,
        "top1_not_averaged": last.val_top1,
        "epochs": [record.val_top1 for record in history],
        "seconds": sum(record.seconds for record in history),
    }


def _speed(networks: dict[str, EfficientViT], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The deploy forms in turns, the full one twice: its second copy tells how exact the ratios are."""
    forms = {name: rewrite(network.eval()) for name, network in networks.items()}
    forms["full again"] = rewrite(networks["full"].eval())
    rows = []
    for batch_size in BATCH_SIZES:
        images = torch.randn(batch_size, 3, *networks["full"].config.image_size)
        with num_threads(args.threads), torch.inference_mode():
            timings = measure(
                {name: lambda form=form, images=images: form(images) for name, form in forms.items()},
                rounds=3 if args.quick else 30,
            )
        for name, timing in timings.items():
            speedup = paired_ratio(timings["full"], timing)
            rows.append(
                {"network": name, "batch_size": batch_size, "latency_ms": timing.latency_ms, "speedup": list(speedup)}
            )
    return rows


def _config(args: argparse.Namespace, seed: int) -> TrainConfig:
    config = recipe("scratch_small")
    size = config.preprocessing.at_size((args.image_size, args.image_size))
    return replace(
        config,
        model=args.model,
        device="cpu",
        num_workers=args.workers,
        epochs=args.epochs,
        seed=seed,
        preprocessing=size,
        **({"batch_size": 8} if args.quick else {}),
    )


def _tuning(args: argparse.Namespace, seed: int) -> TrainConfig:
    config = _config(args, seed)
    return replace(config, epochs=args.tuning_epochs, learning_rate=config.learning_rate * FINE_TUNING_RATE)


def _about(photos: Path) -> dict[str, Any]:
    data = find_data(photos)
    return {"num_classes": len(data.class_names), "num_train": len(data.train), "num_val": len(data.val)}


def _command(args: argparse.Namespace) -> str:
    parts = [f"--limit {args.limit} --image-size {args.image_size}"]
    parts += [f"--epochs {args.epochs} --tuning-epochs {args.tuning_epochs} --batches {args.batches}"]
    parts += [f"--orders {' '.join(args.orders)} --seeds {' '.join(map(str, args.seeds))}"]
    parts += ["--scratch"] * args.scratch + ["--quick"] * args.quick
    return f"python benchmarks/pruning.py --model {args.model} --data PHOTOS --folder WORK {' '.join(parts)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/ and val/CLASS/")
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--model", default="efficientvit_m2")
    parser.add_argument("--limit", default="macs=70%")
    parser.add_argument("--orders", nargs="+", choices=("per_cost", "plain"), default=["per_cost"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scratch", action="store_true", help="train the pruned shape from random weights as well")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tuning-epochs", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=80, help="batches of 32 to score with")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--quick", action="store_true", help="a tiny network for an epoch; keeps no record")
    args = parser.parse_args()
    if args.quick:
        quick = {"model": "efficientvit_tiny", "image_size": 64, "epochs": 1, "tuning_epochs": 1, "batches": 2}
        vars(args).update(**quick, output=None)
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffvitError as error:
        sys.exit(f"error: {error}")
