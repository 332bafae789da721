"""How far ahead the deploy form is: every ratio that issue 3 asks for, on one CPU thread, against what it asks for.

Six interleaved runs, each with its own A/A control; a record per run goes into `results/targets/`, and a run
whose record is there is not measured again unless `--again` is given. Prints a Markdown table.

    python benchmarks/targets.py --folder FILES        # all; 10 to 15 minutes, of which exporting is half
    python benchmarks/targets.py eager int8 --again    # some
    python benchmarks/targets.py --quick               # does it run at all? keeps no record

FILES is any folder; exported files found there are not written again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from effvit.deploy.speed.benchmark import benchmark
from effvit.deploy.speed.records import Record, Row, read_record
from effvit.deploy.speed.report import conditions, missing_text, spread_text
from effvit.errors import EffvitError
from effvit.files import make_output_folder, write_json
from effvit.timing import paired_ratio

RECORDS = Path(__file__).resolve().parents[1] / "results" / "targets"
M0, M5, MOBILENET = "efficientvit_m0", "efficientvit_m5", "mobilenetv3_large_100"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What takes turns."""

    models: tuple[str, ...]
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    batch_sizes: tuple[int, ...] = (1, 16)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One ratio: how many times as fast the first is as the second."""

    text: str
    run: str
    batch_size: int
    ours: tuple[str, str, str]
    """Model, runtime and precision."""
    rivals: tuple[tuple[str, str, str], ...]
    """The same; of several the fastest counts."""
    at_least: float


RUNS: dict[str, Run] = {
    "eager_m0": Run(models=(M0, f"timm/{M0}@plain", f"timm/{M0}@channels_last"), runtimes=("torch",)),
    "eager_m5": Run(models=(M5, f"timm/{M5}@plain", f"timm/{M5}@channels_last"), runtimes=("torch",)),
    "compiled_m0": Run(models=(M0, f"timm/{M0}", f"timm/{M0}@plain"), runtimes=("compile", "torch"), batch_sizes=(1,)),
    "onnx_m0": Run(models=(M0, f"timm/{M0}"), runtimes=("onnxruntime",)),
    "onnx_m5": Run(models=(M5, f"timm/{M5}"), runtimes=("onnxruntime",)),
    "int8": Run(models=(M5, MOBILENET), runtimes=("onnxruntime",), precisions=("int8", "fp32")),
}


def _eager(model: str, form: str, text: str, batch_size: int, at_least: float) -> Target:
    return Target(
        text=f"eager deploy form / {text}, {model.removeprefix('efficientvit_').upper()}",
        run=f"eager_{model.removeprefix('efficientvit_')}",
        batch_size=batch_size,
        ours=(model, "torch", "fp32"),
        rivals=((f"timm/{model}@{form}", "torch", "fp32"),),
        at_least=at_least,
    )


def _onnx(model: str, batch_size: int, at_least: float) -> Target:
    return Target(
        text=f"ONNX Runtime, ours / timm's export, {model.removeprefix('efficientvit_').upper()}",
        run=f"onnx_{model.removeprefix('efficientvit_')}",
        batch_size=batch_size,
        ours=(model, "onnxruntime", "fp32"),
        rivals=((f"timm/{model}", "onnxruntime", "fp32"),),
        at_least=at_least,
    )


def _int8(text: str, batch_size: int, rivals: tuple[tuple[str, str, str], ...], at_least: float) -> Target:
    ours = (M5, "onnxruntime", "int8")
    return Target(text=text, run="int8", batch_size=batch_size, ours=ours, rivals=rivals, at_least=at_least)


_FP32 = ((M5, "onnxruntime", "fp32"),)
_RIVAL = ((MOBILENET, "onnxruntime", "fp32"), (MOBILENET, "onnxruntime", "int8"))
_COMPILED = (M0, "compile", "fp32")

TARGETS = (
    _eager(M0, "plain", "timm eager", 1, 1.5),
    _eager(M0, "plain", "timm eager", 16, 1.7),
    _eager(M5, "plain", "timm eager", 1, 1.35),
    _eager(M5, "plain", "timm eager", 16, 1.6),
    _eager(M0, "channels_last", "timm reparameterized, channels last", 1, 1.25),
    _eager(M0, "channels_last", "timm reparameterized, channels last", 16, 1.5),
    _eager(M5, "channels_last", "timm reparameterized, channels last", 1, 1.2),
    _eager(M5, "channels_last", "timm reparameterized, channels last", 16, 1.45),
    Target(
        text="compiled deploy form / timm eager, M0",
        run="compiled_m0",
        batch_size=1,
        ours=_COMPILED,
        rivals=((f"timm/{M0}@plain", "torch", "fp32"),),
        at_least=3.0,
    ),
    Target(
        text="compiled deploy form / compiled timm in its fastest form, M0",
        run="compiled_m0",
        batch_size=1,
        ours=_COMPILED,
        rivals=((f"timm/{M0}", "compile", "fp32"), (f"timm/{M0}@plain", "compile", "fp32")),
        at_least=1.3,
    ),
    _onnx(M0, 1, 1.05),
    _onnx(M0, 16, 1.0),
    _onnx(M5, 1, 1.03),
    _onnx(M5, 16, 1.0),
    _int8("ONNX Runtime, M5 int8 / its fp32", 1, _FP32, 1.6),
    _int8("ONNX Runtime, M5 int8 / its fp32", 16, _FP32, 1.8),
    _int8("ONNX Runtime, M5 int8 / MobileNetV3-Large at its best precision", 1, _RIVAL, 0.95),
    _int8("ONNX Runtime, M5 int8 / MobileNetV3-Large at its best precision", 16, _RIVAL, 1.5),
)


def main() -> int:
    """Measure what was asked for and is not there yet; the exit code."""
    args = _arguments()
    records = {name: _record(name, args) for name in args.runs}
    for name, record in records.items():
        print(f"{name}: {conditions(record)}\n")
        print("".join(f"not measured: {missing_text(missing)}\n" for missing in record.missing))
    print(table(records))
    return 0


def _record(name: str, args: argparse.Namespace) -> Record:
    path = args.records / f"{name}.json"
    if not args.quick and not args.again and path.exists():
        print(f"{name}: taken from {path.name}", file=sys.stderr)
        return read_record(path)
    run = RUNS[name]
    print(f"{name}: {', '.join(run.models)} in {', '.join(run.runtimes)}", file=sys.stderr)
    record = benchmark(
        run.models,
        runtimes=run.runtimes,
        precisions=run.precisions,
        batch_sizes=run.batch_sizes,
        num_threads=1,
        device="cpu",
        rounds=args.rounds,
        min_round_seconds=args.round_seconds,
        warmup_seconds=args.warmup_seconds,
        num_breakdowns=4,
        folder=None if args.folder is None else make_output_folder(args.folder),
        on_step=lambda text: print(f"  {text}", file=sys.stderr),
        command=f"python benchmarks/targets.py {name}" + (" --quick" if args.quick else f" --rounds {args.rounds}"),
    )
    if not args.quick:
        write_json(make_output_folder(args.records) / path.name, record.to_dict())
    return record


def table(records: dict[str, Record]) -> str:
    """Every target whose run is there, with what was measured and how far the control was from 1."""
    lines = [
        "| how many times as fast | batch | at least | measured (quartiles) | control | reached |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [_line(target, records[target.run]) for target in TARGETS if target.run in records]
    return "\n".join(lines)


def _line(target: Target, record: Record) -> str:
    rows = {row.key: row for row in record.rows if row.batch_size == target.batch_size}
    ours = rows.get((*target.ours, target.batch_size))
    rivals = [rows[key] for rival in target.rivals if (key := (*rival, target.batch_size)) in rows]
    if ours is None or not rivals:
        return f"| {target.text} | {target.batch_size} | {target.at_least:g} | not measured | | |"
    rival = min(rivals, key=_latency)
    ratio = paired_ratio(rival.timing, ours.timing)
    control = next(row for row in rows.values() if row.is_control).relative.median
    cells = (
        target.text + (f" ({rival.precision})" if len({r.precision for r in rivals}) > 1 else ""),
        f"{target.batch_size}",
        f"{target.at_least:g}",
        spread_text(ratio),
        f"{control:.3f}",
        "yes" if ratio.median >= target.at_least else "no",
    )
    return f"| {' | '.join(cells)} |"


def _latency(row: Row) -> float:
    return row.timing.latency_ms


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{', '.join(RUNS)}, or how they begin (default: all)")
    parser.add_argument("--folder", type=Path, help="where exported files are kept (default: nowhere)")
    parser.add_argument(
        "--records", type=Path, default=RECORDS, help="where records are kept (default: results/targets)"
    )
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds (default: 20)")
    parser.add_argument("--again", action="store_true", help="measure also what has a record")
    parser.add_argument("--quick", action="store_true", help="2 short rounds, no record")
    args = parser.parse_args()
    asked = args.runs or list(RUNS)
    if unknown := [name for name in asked if not any(run.startswith(name) for run in RUNS)]:
        parser.error(f"unknown runs {', '.join(unknown)}; known: {', '.join(RUNS)}")
    args.runs = [run for run in RUNS if any(run.startswith(name) for name in asked)]
    args.round_seconds, args.warmup_seconds = (0.02, 0.0) if args.quick else (0.2, 1.0)
    args.rounds = 2 if args.quick else args.rounds
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffvitError as error:
        sys.exit(f"error: {error}")
