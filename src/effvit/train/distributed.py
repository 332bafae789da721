"""Several processes that train one network, as `torchrun` starts them; in one process nothing happens here.

`torchrun` tells each process its rank and their number in the environment; `joined` connects them.
Every function is called by all processes in the same order, as all collective operations are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from effvit.errors import ConfigError, EffvitError, RunError, first_line

T = TypeVar("T")


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connect the processes that `torchrun` started, for as long as the block lasts.

    Numbers and Python values travel between CPUs (gloo); gradients on CUDA between GPUs (nccl).

    Args:
        device: What they compute on: cpu, cuda, or auto.

    Raises:
        ConfigError: If torchrun's variables are incomplete.
        RunError: If another process has ended meanwhile.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the processes of this run cannot be connected: {first_line(error)}") from error
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise RunError(
            f"another process of this run has ended ({first_line(error)}); continue with --resume"
        ) from error
    finally:
        dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether the other end is gone: nccl's errors have a class of their own, gloo's are known by their text."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "Connection closed by peer" in text


def local_device(name: str) -> str:
    """The device of this process: where several share a machine, `cuda` and `auto` mean a GPU for each.

    Raises:
        ConfigError: If one GPU is named for several processes.
    """
    if num_processes() == 1 or name in ("cpu", "mps"):
        return name
    if name.startswith("cuda:"):
        raise ConfigError(f"device must be cpu or cuda where torchrun starts several processes, got {name!r}")
    if name == "auto" and not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Position of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum of a CPU tensor over all processes, on every process."""
    total = values.clone()
    if num_processes() > 1:
        dist.all_reduce(total)
    return total


def gather(values: Sequence[T]) -> list[T]:
    """The values of all processes in the order of their ranks, on every process; they are pickled on the way."""
    if num_processes() == 1:
        return list(values)
    parts: list[list[T]] = [[] for _ in range(num_processes())]
    dist.all_gather_object(parts, list(values))
    return [value for part in parts for value in part]


def on_main(make: Callable[[], T]) -> T:
    """Call a function in the main process and give what it returns to all; an error it raises, all raise."""
    if num_processes() == 1:
        return make()
    box: list[tuple[T | None, EffvitError | None]] = [(None, None)]
    if is_main():
        try:
            box = [(make(), None)]
        except EffvitError as error:
            box = [(None, error)]
    dist.broadcast_object_list(box)
    value, failed = box[0]
    if failed is not None:
        raise failed
    return cast(T, value)


def share_from_main(tensors: Iterable[Tensor]) -> None:
    """Give every process the main process's values, such as BatchNorm's statistics, which each has its own of."""
    if num_processes() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
