"""What may take part in a benchmark: from a name, folder or file to a network or an exported file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from effvit.deploy.runtimes import ExportedModel, is_exported, open_file
from effvit.errors import ConfigError, unknown_name
from effvit.model.sources import find_model
from effvit.model.variants import TIMM_PREFIX as PUBLISHED_PREFIX

Source = str | Path | nn.Module | ExportedModel
"""A name, a folder of weights or of a run, an exported file, or a model itself."""

TIMM_PREFIX = "timm/"
"""Asks for timm's network where ours has the same name: `timm/efficientvit_m0`."""

FORM_NAMES: dict[str, str] = {
    "best": "all forms but `plain` are tried, the fastest is kept",
    "plain": "as its authors made it, in eval mode",
    "tokens": "ours rewritten, (tokens, channels) in memory",
    "maps": "ours rewritten, (channels, height, width) in memory",
    "contiguous": "reparameterised by timm",
    "channels_last": "reparameterised by timm, channels last in memory",
    "dynamo": "exported by torch.export",
    "torchscript": "exported to ONNX by torch's older, tracing exporter",
}
"""What can follow a name after `@` -> what it means."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A model that takes part: either a network or a file."""

    label: str
    """What it is called in tables."""
    form: str
    """Key of `FORM_NAMES`."""
    input_size: tuple[int, int, int]
    """Channels, height and width of a picture."""
    num_params: int | None
    """Parameters before rewriting; None where a file does not tell."""
    network: nn.Module | None = None
    """The network as its authors made it; None for a file."""
    file: Path | None = None
    """The exported file; None for a network. Not open: some runtimes fix their threads while any file is."""
    precision: str | None = None
    """What a file says of its number format; None where it does not, and for a network."""
    is_random: bool = False
    """Whether the weights are random and made anew each time."""


def find_entrant(source: Source, *, image_size: tuple[int, int] | None = None, form: str = "best") -> Entrant:
    """Find what a person names. Weights by name are random: no network's speed on these devices depends on them.

    Args:
        source: A variant's name, a timm name (`timm/NAME` where both have it), a folder, an exported file, or a
            module; a text may end in `@FORM`.
        image_size: Height and width in pixels; None for the model's own.
        form: For sources that do not say it themselves.

    Raises:
        ConfigError: If nothing has this name, naming the nearest, or the size does not fit.
        WeightsError: If a folder or file cannot be read.
    """
    label = None
    if isinstance(source, str) and "@" in source and not Path(source).exists():
        label, (source, _, form) = source, source.rpartition("@")
    if form not in FORM_NAMES:
        raise ConfigError(unknown_name("form", form, FORM_NAMES))
    if isinstance(source, ExportedModel) or (isinstance(source, str | Path) and is_exported(source)):
        if label is not None and form != "best":
            raise ConfigError(f"{Path(str(source)).name} is an exported file, which has one form only; got {form!r}")
        model = source if isinstance(source, ExportedModel) else open_file(source)
        return _of_file(model, image_size)
    found = find_model(source, image_size=image_size, for_pictures=False)
    return Entrant(
        label=(label or found.label).replace(PUBLISHED_PREFIX, TIMM_PREFIX, 1),
        form=form,
        input_size=found.input_size,
        num_params=sum(parameter.numel() for parameter in found.network.parameters()),
        network=found.network,
        is_random=found.is_random,
    )


def _of_file(model: ExportedModel, image_size: tuple[int, int] | None) -> Entrant:
    own = model.metadata.preprocessing.image_size if model.metadata.preprocessing else (224, 224)
    if model.takes_pixels:
        _, height, width, channels = model.input_shape
    else:
        _, channels, height, width = model.input_shape
    fixed = (height or (image_size or own)[0], width or (image_size or own)[1])
    if image_size not in (None, fixed):
        raise ConfigError(f"{model.path.name} takes pictures of {fixed[0]} x {fixed[1]} only, got {image_size}")
    return Entrant(
        label=model.path.stem,
        form="best",
        input_size=(channels or 3, *fixed),
        num_params=None,
        file=model.path,
        precision=model.metadata.precision,
    )
