"""Several networks that a person names, each once and under a label of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from effvit.errors import ConfigError
from effvit.model.sources import FoundModel, find_model
from effvit.model.variants import VARIANTS


def find_models(
    sources: Sequence[str | Path | nn.Module | FoundModel],
    *,
    image_size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
) -> list[FoundModel]:
    """Find what a person names, to run beside each other without pictures of files; each has a label of its own.

    Args:
        sources: Whatever `find_model` takes, or what it gave, which stays as it is.
        image_size: Height and width in pixels; None for each network's own.
        weights: See `find_model`.

    Raises:
        ConfigError: If there is none, one is unknown, or one is named twice.
    """
    if not sources:
        raise ConfigError("at least one model is needed, got none")
    found: list[FoundModel] = []
    taken: set[object] = set()
    for source in sources:
        identity = _identity(source)
        if identity in taken:
            name = source.label if isinstance(source, FoundModel) else type(source).__name__
            name = str(source) if isinstance(source, str | Path) else name
            raise ConfigError(f"a model can take part once only, got twice: {name}")
        taken.add(identity)
        if isinstance(source, FoundModel):
            model = source
        else:
            model = find_model(source, image_size=image_size, weights=weights, for_pictures=False)
        same = sum(other.label.partition(" (")[0] == model.label for other in found)  # two runs may have one name
        found.append(replace(model, label=f"{model.label} ({same + 1})") if same else model)
    return found


def _identity(source: str | Path | nn.Module | FoundModel) -> object:
    """What is equal for two sources that are the same network."""
    if isinstance(source, FoundModel | nn.Module):
        return id(source.network if isinstance(source, FoundModel) else source)
    is_folder = str(source) not in VARIANTS and Path(source).is_dir()
    return Path(source).resolve() if is_folder else str(source)
