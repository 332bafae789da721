"""What `learning.py` found, as a table and a drawing.

python benchmarks/learning_report.py    # the table of results/learning.json, for docs/learning.md
"""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from effvit.environment import machine
from effvit.files import atomic_path, read_json

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "results" / "learning.json"
CURVE = ROOT / "docs" / "images" / "learning.png"
OURS, RIVAL, OTHER, STUDENT = "ours", "timm", "mobilenetv3", "distilled"
WORDS = {
    OURS: "ours, M0",
    RIVAL: "timm's M0, plain timm loop",
    OTHER: "timm's MobileNetV3-Small, plain timm loop",
    STUDENT: "ours, M0 with a teacher",
}

Run = dict[str, Any]


def counting_top1(epoch: dict[str, Any]) -> float:
    """Top-1 of the weights that count: the moving average where one is kept, else the trained ones."""
    return float(epoch["top1"] if epoch["top1_ema"] is None else epoch["top1_ema"])


def last_top1(record: dict[str, Any], network: str) -> list[float]:
    """Top-1 after the last epoch, seed by seed: no epoch is chosen by the photos that judge it."""
    return [counting_top1(run["epochs"][-1]) for run in _runs(record, network)]


def table(record: dict[str, Any]) -> str:
    """The record in Markdown."""
    networks = [network for network in WORDS if _runs(record, network)]
    lines = [
        f"{machine(record['environment'])}; {_conditions(record)}.",
        "",
        "| network | top-1 after the last epoch, mean ± standard deviation | each seed | trained weights |"
        " best epoch | s / epoch |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
        *(_row(network, record) for network in networks),
        "",
        *(_comparison(record, network) for network in networks if network != OURS and OURS in networks),
    ]
    return "\n".join(lines).rstrip()


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw validation top-1 over the epochs: the mean over seeds as a line, lowest to highest as a band."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for network, words in WORDS.items():
        if not (runs := _runs(record, network)):
            continue
        curves = [[counting_top1(epoch) for epoch in run["epochs"]] for run in runs]
        by_epoch = list(zip(*curves, strict=True))
        epochs = range(1, len(by_epoch) + 1)
        (line,) = axes.plot(epochs, [statistics.fmean(values) for values in by_epoch], label=words)
        axes.fill_between(epochs, list(map(min, by_epoch)), list(map(max, by_epoch)), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="epoch", ylabel="validation top-1", title=_conditions(record), ylim=(0, None))
    axes.title.set_fontsize("medium")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _row(network: str, record: dict[str, Any]) -> str:
    runs, scores = _runs(record, network), last_top1(record, network)
    teachers = sorted({run["teacher"] for run in runs} - {None})
    trained = statistics.fmean(run["epochs"][-1]["top1"] for run in runs)
    best = statistics.fmean(max(map(counting_top1, run["epochs"])) for run in runs)
    seconds = statistics.median(epoch["seconds"] for run in runs for epoch in run["epochs"])
    cells = (
        WORDS[network] + (f" ({', '.join(WORDS[teacher] for teacher in teachers)})" if teachers else ""),
        f"{statistics.fmean(scores):.1%}" + (f" ± {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else ""),
        ", ".join(f"{score:.1%}" for score in scores),
        f"{trained:.1%}",
        f"{best:.1%}",
        f"{seconds:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def _comparison(record: dict[str, Any], network: str) -> str:
    """Ours against another, beside the standard error of the difference of the two means."""
    ours, theirs = last_top1(record, OURS), last_top1(record, network)
    difference = 100 * (statistics.fmean(ours) - statistics.fmean(theirs))
    text = f"- ours minus {WORDS[network]}: {difference:+.1f} points"
    if min(len(ours), len(theirs)) > 1:
        error = 100 * math.sqrt(statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs))
        text += f", standard error {error:.1f}"
    return text


def _conditions(record: dict[str, Any]) -> str:
    config, data = record["config"], record["data"]
    height, width = config["preprocessing"]["image_size"]
    return (
        f"{data['name']}, {data['num_classes']} classes, {data['num_train']:,} photos to train on and"
        f" {data['num_val']:,} to judge by, {height} x {width} pixels, {config['epochs']} epochs"
    )


def _runs(record: dict[str, Any], network: str) -> list[Run]:
    return [run for run in record["runs"] if run["network"] == network]


if __name__ == "__main__":
    sys.exit(print(table(read_json(RECORD))))
