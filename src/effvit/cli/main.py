"""The command `effvit`: verbs, and what leaves with which exit code.

0: done; 2: the user's input or this machine does not allow it, in one line; 130: interrupted. What
was asked for goes to stdout, everything about the work to stderr. Torch is imported by the verbs
that need it, after the arguments are parsed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

import typer
from typer.exceptions import Abort, TyperException

import effvit
from effvit.cli import (
    analysis,
    benchmarking,
    data,
    deployment,
    detecting,
    dry_run,
    evaluating,
    profiling,
    training,
)
from effvit.cli.options import Json
from effvit.errors import EffvitError, first_line

_INTERRUPTED = 130

app = typer.Typer(
    name="effvit",
    help="EfficientViT-M (arXiv:2305.07027): train, evaluate, export, measure, analyse. Not MIT's EfficientViT.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
    debug: bool = typer.Option(False, "--debug", help="Show where an error comes from."),
) -> None:
    if version:
        print(effvit.__version__)
        raise typer.Exit


@app.command(epilog="\b\nExamples:\n  effvit models\n  effvit models --json")
def models(
    as_json: Json = False,
    markdown: bool = typer.Option(False, "--markdown", help="Print a Markdown table, as in the README."),
) -> None:
    """List the networks, with parameters, MACs and the paper's accuracy and speed."""
    from effvit.cli.render import emit, models_markdown, models_table
    from effvit.model.variants import PUBLISHED

    rows = [{"name": name, **vars(facts)} for name, facts in PUBLISHED.items()]
    emit(rows, models_markdown if markdown else models_table, as_json)


data.register(app)
training.register(app)
dry_run.register(app)
evaluating.register(app)
deployment.register(app)
benchmarking.register(app)
detecting.register(app)
profiling.register(app)
analysis.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    # Schedulers ask a job to end with SIGTERM: it leaves as after Ctrl-C, with what is needed to go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    logging.getLogger("effvit").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]  # before or after the verb
    try:
        code = app(arguments, standalone_mode=False, prog_name="effvit")
        if code == _INTERRUPTED:  # typer turns Ctrl-C into this number by itself
            return _fail("interrupted", _INTERRUPTED)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, Abort):
        return _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does; nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except TyperException as error:
        return _usage_error(error)
    except (EffvitError, OSError) as error:
        if debug:
            raise
        return _fail(f"error: {first_line(error)}", 2)


def _usage_error(error: TyperException) -> int:
    """Typer's own errors, in one line; no arguments at all ask for help."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return 0
    command = context.command_path if context is not None else "effvit"
    return _fail(f"error: {' '.join(message.split()).rstrip('.')}. See {command} --help", 2)


def _fail(message: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")  # of several processes that train together, which most often say the same
    print(message if rank == "0" else f"(process {rank}) {message}", file=sys.stderr)
    return code
