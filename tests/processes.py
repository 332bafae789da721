"""Several processes on this machine, connected as `torchrun` connects them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable

import torch

from effvit.train import distributed


def in_processes(count: int, work: Callable[[], object]) -> None:
    """Call `work` in `count` connected processes; fails if one of them does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

    def begin(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        torch.set_num_threads(1)
        with distributed.joined("cpu"):
            work()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=begin, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count
