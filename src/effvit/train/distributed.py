"""Several processes that train one network, as `torchrun` starts them; in one process nothing happens here.

`torchrun` tells each process its rank and their number in the environment; `joined` connects them.
Every function is called by all processes in the same order, as all collective operations are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from effvit.errors import ConfigError

T = TypeVar("T")


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connect the processes that `torchrun` started, for as long as the block lasts.

    Numbers and Python values travel between CPUs (gloo); gradients on CUDA between GPUs (nccl).

    Args:
        device: What they compute on: cpu, cuda, or auto.

    Raises:
        ConfigError: If torchrun's variables are incomplete.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"the processes of this run cannot be connected: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


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


def from_main(value: T) -> T:
    """The main process's value, on every process."""
    if num_processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def share_from_main(tensors: Iterable[Tensor]) -> None:
    """Give every process the main process's values, such as BatchNorm's statistics, which each has its own of."""
    if num_processes() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
