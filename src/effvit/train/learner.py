"""One step of training: everything that a step changes, and the step itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from effvit.errors import RunError
from effvit.train.averaging import make_average, update_average
from effvit.train.distributed import num_processes
from effvit.train.freezing import set_training
from effvit.train.optimizer import clip_gradients, make_optimizer
from effvit.train.run_config import RunConfig

_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MicroBatch(NamedTuple):
    """What goes through the network at once."""

    images: Any
    """Pictures on the device: of a classifier normalised and mixed, float32, (B, 3, H, W); of a detector a list."""
    targets: Any
    """One for each picture: class indices (B,) or probabilities (B, num_classes); of a detector a list."""


StepLoss = Callable[[nn.Module, MicroBatch], Tensor]
"""(network, micro-batch) -> the sum of the losses of its pictures; the network is called once, as it is given."""


class Learner:
    """A network that is being trained, with its optimiser, loss scaler and moving average.

    Args:
        model: The network, on its device; trained in place.
        config: How.
        loss: What is to become small.
        device: Where the network lies.
    """

    def __init__(self, model: nn.Module, config: RunConfig, loss: StepLoss, device: torch.device) -> None:
        if config.sync_norm and num_processes() > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        self.model = model
        self.config = config
        self.device = device
        self.optimizer = make_optimizer(model, config)
        self.average: ModelEmaV3 | None = make_average(model, config) if config.ema_decay else None
        self.learning_rate = 0.0
        self._loss = loss
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self._called: nn.Module = model
        self._shared: DistributedDataParallel | None = None
        self._frozen: bool | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Put the network in training mode, with what is frozen in this epoch (from 0)."""
        frozen = epoch < self.config.freeze_backbone_epochs
        set_training(self.model, freeze_backbone=frozen, freeze_norm=self.config.freeze_norm)
        if frozen == self._frozen:
            return
        # Which parameters have gradients is fixed when the network is wrapped, so a thawed one is wrapped anew.
        self._frozen = frozen
        self._called = self.model
        if num_processes() > 1:
            self._called = self._shared = DistributedDataParallel(self.model)
        if self.config.compile:
            self._called = torch.compile(self._called)  # type: ignore[assignment]

    def step(self, micro_batches: list[MicroBatch], *, num_pictures: int, learning_rate: float, number: int) -> Tensor:
        """Compute the gradient of the mean loss over the pictures of all processes, and take a step.

        Args:
            micro_batches: This process's part of the step.
            num_pictures: Pictures of the step in all processes.
            learning_rate: Of groups without a scale of their own.
            number: Steps of the whole run before this one.

        Returns:
            Sum of the losses of this process's pictures, on the device.

        Raises:
            RunError: If the device has too little memory.
        """
        self.learning_rate = learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (learning_rate / self.config.peak_learning_rate)
        self.optimizer.zero_grad()
        try:
            losses = [
                self._backward(batch, num_pictures, is_last=index == len(micro_batches) - 1)
                for index, batch in enumerate(micro_batches)
            ]
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{self.device} has too little memory for {len(micro_batches[0].targets)} pictures at once; cut a step"
                f" into more parts (--set accumulation={2 * self.config.accumulation}), or take a smaller --batch-size"
            ) from error
        self._scaler.unscale_(self.optimizer)
        clip_gradients(self.model, self.config)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.average is not None:
            update_average(self.average, self.model, number)
        return torch.stack(losses).sum()

    def _backward(self, batch: MicroBatch, num_pictures: int, *, is_last: bool) -> Tensor:
        """Add a micro-batch's share of the gradient; the processes exchange theirs with the last one."""
        dtype = _AUTOCAST[self.config.precision]
        with nullcontext() if self._shared is None or is_last else self._shared.no_sync():
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                loss_sum = self._loss(self._called, batch)
            # The processes' gradients are averaged, and the mean over all pictures is wanted.
            self._scaler.scale(loss_sum * (num_processes() / num_pictures)).backward()  # type: ignore[no-untyped-call]
        return loss_sum.detach().float()

    def check_finite(self, place: str) -> None:
        """Refuse weights that hold nan or inf, which a finite loss may still have led to.

        Raises:
            RunError: If one does; says where the run stands.
        """
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise RunError(f"the weights are not finite after {place}: the step before went too far")

    def state_dict(self) -> dict[str, Any]:
        """Everything a step changes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "learning_rate": self.learning_rate,
            "average": None if self.average is None else self.average.module.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave.

        Raises:
            RuntimeError, ValueError, KeyError: If it is of another network or optimiser.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.learning_rate = state["learning_rate"]
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
