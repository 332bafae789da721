from __future__ import annotations

import math

import pytest
import torch

from effvit.errors import RunError
from effvit.train.running_loss import RunningLoss

GPU = torch.device("cuda")  # only its name is looked at: the numbers here are on the CPU


def test_sums_are_those_of_all_steps_however_rarely_they_are_read() -> None:
    for device in (torch.device("cpu"), GPU):
        running = RunningLoss(device, "epoch 1")
        total = sum(running.add(torch.tensor(2.0 * n), 2, step=n, pictures=["a.jpg"]) for n in range(1, 46))
        assert total + running.read() == 45 * 46
        assert running.last == 45.0 and running.read() == 0


def test_a_gpu_is_asked_rarely_and_the_step_is_still_named() -> None:
    running = RunningLoss(GPU, "epoch 3")
    for step in range(1, 20):
        loss = torch.tensor(math.inf if step == 7 else 1.0)
        assert running.add(loss, 1, step=step, pictures=[f"{step}.jpg", "b.jpg"]) == 0
    with pytest.raises(RunError, match=r"^the loss is inf at epoch 3, step 7 \(pictures 7\.jpg, b\.jpg, \.\.\.\)$"):
        running.read()


def test_a_gpu_is_asked_often_enough_to_stop_soon() -> None:
    """A loss that is not finite has spoilt the weights: what is trained until it is read is lost."""
    running = RunningLoss(GPU, "epoch 1")
    with pytest.raises(RunError, match="the loss is nan at epoch 1, step 1 "):
        for step in range(1, 51):
            running.add(torch.tensor(math.nan), 1, step=step, pictures=[])


def test_the_cpu_is_asked_at_once() -> None:
    running = RunningLoss(torch.device("cpu"), "epoch 1")
    with pytest.raises(RunError, match="the loss is nan at epoch 1, step 1 "):
        running.add(torch.tensor(math.nan), 1, step=1, pictures=[])
