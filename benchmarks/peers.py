"""Our networks among the small ones that people would pick instead, each in its own best form, on one CPU thread.

All take turns in one run per runtime; the records, with table and page, go into `results/peers/RUNTIME/`.

    python benchmarks/peers.py --folder FILES                   # ONNX Runtime and torch's eager mode
    python benchmarks/peers.py --runtimes onnxruntime --quick   # does it run at all? keeps no record

FILES is any folder; exported files found there are not written again, so a second run takes minutes. The first
one exports 27 networks by two exporters, about 15 minutes; measuring takes 5 in either runtime.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from effvit.deploy.speed.benchmark import benchmark
from effvit.deploy.speed.page import write_report
from effvit.deploy.speed.published_accuracy import PEERS
from effvit.deploy.speed.report import markdown_table
from effvit.errors import EffvitError
from effvit.files import make_output_folder
from effvit.model.variants import PUBLISHED

RECORDS = Path(__file__).resolve().parents[1] / "results" / "peers"
MODELS = (*PUBLISHED, *PEERS)


def main() -> int:
    """Measure in each runtime; the exit code."""
    args = _arguments()
    for runtime in args.runtimes:
        record = benchmark(
            args.models,
            runtimes=[runtime],
            batch_sizes=(1, 16),
            num_threads=1,
            device="cpu",
            rounds=2 if args.quick else args.rounds,
            min_round_seconds=0.02 if args.quick else 0.1,
            warmup_seconds=0.0 if args.quick else 0.5,
            num_breakdowns=len(args.models),
            folder=None if args.folder is None else make_output_folder(args.folder),
            on_step=lambda text: print(f"  {text}", file=sys.stderr),
            command=_command(args, runtime),
        )
        print(markdown_table(record))
        if not args.quick:
            write_report(record, make_output_folder(args.records / runtime))
    return 0


def _command(args: argparse.Namespace, runtime: str) -> str:
    """The command without places, which are nobody else's."""
    models = "" if tuple(args.models) == MODELS else f"{' '.join(args.models)} "
    length = "--quick" if args.quick else f"--rounds {args.rounds}"
    return f"python benchmarks/peers.py {models}--runtimes {runtime} {length}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help="which (default: all)")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "torch"], help="default: onnxruntime torch")
    parser.add_argument("--folder", type=Path, help="where exported files are kept (default: nowhere)")
    parser.add_argument("--records", type=Path, default=RECORDS, help="where records are kept (default: results/peers)")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds (default: 10)")
    parser.add_argument("--quick", action="store_true", help="2 short rounds, no record")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EffvitError as error:
        sys.exit(f"error: {error}")
