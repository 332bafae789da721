"""How an exported file is proved: which pictures it and the network are given, and what difference is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from effvit.data.transforms import normalize
from effvit.deploy.formats.base import ExportedModel, FileFormat, Precision, WriteOptions
from effvit.deploy.pixels import to_pixels
from effvit.deploy.runtimes import any_batch
from effvit.deploy.verify import TOLERANCE, Labelled, Verification, verify
from effvit.errors import ExportError
from effvit.model.checkpoints import WeightsInfo
from effvit.preprocessing import Preprocessing

TOLERANCES: dict[Precision, float] = {"fp32": TOLERANCE, "fp16": 1e-2, "int8": 0.1}
"""What is allowed by default: for fp32 and fp16 the largest error over the largest logit, for int8 the share of
pictures with another first class.

Measured in float16 against float32: 1.7e-3 for an M0 trained on photos, on 400 others; 6e-4 to 2e-3 for random
weights of M0, M2 and M4. An M5 with random weights amplifies any rounding (0.02 to 0.2) and is refused. What
this tolerance cannot tell from rounding, a fault of the rewriting, is looked for in float32 before the cast.
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One export: what was asked for, checked and completed."""

    name: str
    """The format, and below it its row."""
    row: FileFormat
    options: WriteOptions
    """Batch and precision."""
    info: WeightsInfo
    """What goes into the file beside the network."""
    takes_pixels: bool
    """Whether the file takes uint8 pictures."""
    tolerance: float
    """See `TOLERANCES`."""
    network: nn.Module
    """What is right: the network as it is in training, in float32 on the CPU."""
    on_step: Callable[[str], None]
    """Told what is being done."""

    @property
    def reference(self) -> Callable[[Tensor], Tensor]:
        """The network, fed what the file is fed."""
        return _on_pixels(self.network, self.preprocessing) if self.takes_pixels else self.network

    @property
    def preprocessing(self) -> Preprocessing:
        """What happened to the pictures, at the size of the file."""
        return self.info.preprocessing

    def prepared(self, batches: Iterable[Tensor | Labelled]) -> Iterator[Tensor | Labelled]:
        """Normalised pictures as the file takes them."""
        for batch in batches:
            images, targets = batch if isinstance(batch, Labelled) else (batch, None)
            if self.takes_pixels:
                images = to_pixels(images, self.preprocessing)
            yield images if targets is None else Labelled(images, targets)

    def noise(self) -> Iterator[Tensor]:
        """Batches of two sizes, neither that of the example, so that a batch frozen into the file shows."""
        channels, size = len(self.preprocessing.mean), self.preprocessing.image_size
        generator = torch.Generator().manual_seed(0)
        fixed = self.options.batch_size
        for batch_size in (1, 5) if fixed is None else (fixed,):
            yield torch.randn(batch_size, channels, *size, generator=generator)


def verify_file(path: Path, name: str, job: Job, batches: Iterable[Tensor | Labelled] | None) -> Verification | None:
    """Run the file and compare; None if this machine cannot run it."""
    candidate = job.row.open(path)
    if not candidate.runs_here:
        return None
    job.on_step("compare")
    is_int8 = job.options.precision == "int8"
    # Noise first even if there are pictures: it is quick, and its batches are of more than one size.
    # What int8 makes of it says nothing of pictures, so it must only answer.
    verification = _passed(candidate, name, job, job.noise(), tolerance=1.0 if is_int8 else job.tolerance)
    if batches is not None:
        verification = _passed(candidate, name, job, batches, tolerance=job.tolerance)
    return verification


def _passed(
    candidate: ExportedModel, name: str, job: Job, batches: Iterable[Tensor | Labelled], *, tolerance: float
) -> Verification:
    verification = verify(
        job.reference,
        any_batch(candidate),
        job.prepared(batches),
        tolerance=tolerance,
        measure="agreement" if job.options.precision == "int8" else "error",
    )
    if not verification.passed:
        raise ExportError(f"{name} does not compute what the network does: {verification}")
    return verification


def verify_deploy_form(deployed: nn.Module, job: Job) -> None:
    """Compare the deploy form itself in float32, before it is written.

    In half precision a fault of the rewriting can pass for rounding, and not every file can be run here.

    Args:
        deployed: The deploy form of the job's network, which takes normalised pictures.
        job: The export.

    Raises:
        ExportError: If it does not compute what the network does.
    """
    check = verify(job.network, deployed, job.noise(), tolerance=TOLERANCES["fp32"])
    if not check.passed:
        raise ExportError(f"the deploy form does not compute what the network does: {check}")


def _on_pixels(network: nn.Module, preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """The normal path from pixels to logits, which a file that takes pixels must equal."""

    def run(pixels: Tensor) -> Tensor:
        logits: Tensor = network(normalize(pixels.permute(0, 3, 1, 2), preprocessing))  # (B, H, W, C) -> (B, C, H, W)
        return logits

    return run
