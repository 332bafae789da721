"""From a model, pictures and a limit to a pruned network on the disk and a report, with progress on the screen."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from effvit.analysis.pruning.importance import taylor_scores
from effvit.analysis.pruning.knobs import Kind
from effvit.analysis.pruning.limits import Limit
from effvit.analysis.pruning.plan import Latency, Order, Plan, make_plan
from effvit.analysis.pruning.prunable import find_prunable
from effvit.analysis.pruning.report import Trial, pruning_report
from effvit.analysis.report import Report
from effvit.cli.pruning_pictures import Scoring, batches, names_of, pictures_for, renumbered, shuffled, takes_classes
from effvit.cli.render import progress, say, steps
from effvit.data.samples import Sample
from effvit.deploy.rewrite import rewrite
from effvit.environment import environment
from effvit.errors import ConfigError
from effvit.model.checkpoints import WeightsInfo, save
from effvit.model.network import EfficientViT
from effvit.model.pruned import read_pruned, save_pruned
from effvit.model.sources import RANDOM, FoundModel, find_model
from effvit.timing import measure, num_threads, paired_ratio, synchronizer


@dataclass(frozen=True, kw_only=True)
class Timed:
    """How a call is timed."""

    batch_size: int
    num_threads: int


def prune_model(
    source: str,
    data: str,
    limit: Limit,
    *,
    weights: str | None,
    image_size: tuple[int, int] | None,
    kinds: Sequence[Kind],
    order: Order,
    multiple: int,
    min_share: float,
    scoring: Scoring,
    timed: Timed,
    output: Path | None,
    command: str,
) -> Report:
    """Score, plan, cut and save; the report of it.

    Raises:
        ConfigError: If the model cannot be pruned, or not below the limit.
        DataError: If the pictures are none or of other classes.
    """
    pictures = pictures_for(data, source, scoring.seed)
    torch.manual_seed(scoring.seed)  # random weights are the same each time
    num_classes = len(pictures.class_names) if takes_classes(source, weights) else None
    found = find_model(source, image_size=image_size, weights=weights, num_classes=num_classes)
    if found.is_random and weights != RANDOM:
        raise ConfigError(
            f"{source} is a name without weights: add --weights pretrained or a file, or --weights random to try it"
        )
    # The costs and what cannot be pruned at all are said before any picture is read.
    prunable = find_prunable(found.network, found.input_size, kinds=kinds, multiple=multiple, min_share=min_share)
    network = found.network.to(scoring.device).eval()
    names = names_of(found, pictures, scoring.device)
    train = shuffled(renumbered(pictures.train, pictures.class_names, names), scoring)
    with progress(f"score {found.label}") as on_batch:
        total = min(scoring.num_batches, -(-len(train) // scoring.batch_size))
        scores = taylor_scores(
            network,
            prunable.groups,
            F.cross_entropy,
            batches(train, found, scoring),
            on_batch=lambda done: on_batch(done, total),
        )
    ranking = prunable.rank(scores)
    with steps() as on_step:
        stopwatch = _stopwatch(network, found.input_size, timed, scoring.device) if limit.kind == "latency" else None
        what = "candidates timed" if stopwatch else "steps planned"
        plan = make_plan(
            ranking,
            limit,
            order=order,
            network=network,
            latency=stopwatch,
            on_step=lambda done: on_step(f"{done} {what}"),
        )
    small = ranking.pruned(network, plan.sizes)
    val = shuffled(renumbered(pictures.val, pictures.class_names, names), scoring)
    trial = Trial(full=_loss_and_top1(network, val, found, scoring), pruned=_loss_and_top1(small, val, found, scoring))
    if output is not None:
        _save(output, small, found, source, names, num_classes, plan)
    height, width = found.input_size[1:]
    label = found.label
    if isinstance(network, EfficientViT) and network.config.name != label:
        label = f"{network.config.name} of {label}"  # a folder's name says little
    conditions = (
        f"{label}, {found.weights} weights; scored on {scores.num_pictures} training pictures in"
        f" {scores.num_batches} batches, loss {scores.loss:.3f}; costs of one picture of {height} x {width} pixels."
    )
    if limit.kind == "latency":
        conditions += (
            f" Times are of {'the deploy form' if isinstance(network, EfficientViT) else 'the network as it is'}, batch"
            f" {timed.batch_size}, {timed.num_threads} threads, {scoring.device}."
        )
    return pruning_report(
        plan,
        scores,
        label=label,
        weights=found.weights,
        conditions=conditions,
        trial=trial,
        record={
            "command": command,
            "environment": environment(),
            "image_size": [height, width],
            "batch_size": scoring.batch_size,
            "seed": scoring.seed,
        },
    )


def _loss_and_top1(
    network: nn.Module, samples: Sequence[Sample], found: FoundModel, scoring: Scoring
) -> tuple[float, float, int]:
    loss, right, count = 0.0, 0, 0
    with progress("evaluate") as on_batch, torch.inference_mode():
        total = -(-len(samples) // scoring.batch_size)
        for done, (images, targets) in enumerate(batches(samples, found, scoring), start=1):
            logits = network(images)
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(1) == targets).sum())
            count += len(targets)
            on_batch(done, total)
    return loss / count, right / count, count


def _stopwatch(network: nn.Module, input_size: tuple[int, int, int], timed: Timed, device: str) -> Latency:
    """Times a candidate and the full network in turns, both in the form that is deployed."""
    images = torch.randn(timed.batch_size, *input_size, device=device)
    full = rewrite(network)

    def latency(candidate: nn.Module) -> tuple[float, float]:
        small = rewrite(candidate)
        with num_threads(timed.num_threads), torch.inference_mode():
            timings = measure(
                {"full": lambda: full(images), "pruned": lambda: small(images)},
                rounds=15,
                min_round_seconds=0.05,
                warmup_seconds=0.3,
                synchronize=synchronizer(device),
            )
        # The ratio of the same rounds is steadier than either time.
        whole = timings["full"].latency_ms
        return whole * paired_ratio(timings["pruned"], timings["full"]).median, whole

    return latency


def _save(
    output: Path,
    small: nn.Module,
    found: FoundModel,
    source: str,
    names: tuple[str, ...],
    num_classes: int | None,
    plan: Plan,
) -> None:
    provenance = {"pruned_from": found.label, "weights": found.weights, "limit": str(plan.limit)}
    folder = output / "weights"
    if isinstance(small, EfficientViT):
        info = WeightsInfo(class_names=names, preprocessing=found.preprocessing, provenance=provenance)
        save(folder, small, info)
        say(f"pruned weights are in {folder}; go on with: effvit train DATA --weights {shlex.quote(str(folder))}")
        return
    before = read_pruned(source) if Path(source).is_dir() else None  # pruned once more: the full network is its
    save_pruned(
        folder,
        small,
        source=source if before is None else before.source,
        image_size=(found.input_size[1], found.input_size[2]),
        preprocessing=found.preprocessing,
        num_classes=num_classes if before is None else before.num_classes,
        class_names=names,
        provenance=provenance,
    )
    say(f"pruned weights are in {folder}, which `effvit profile` and `effvit analyze` take as a model")
