"""What an exported file says of itself, so that it can be used without the run it came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from effvit.errors import WeightsError
from effvit.model.config import EfficientViTConfig
from effvit.preprocessing import Preprocessing

_PREFIX = "effvit."
"""Keys in the file start with this: other tools write their own beside them."""


@dataclass(frozen=True, kw_only=True)
class FileMetadata:
    """What is written into an exported file; all of it is missing in a file of another tool."""

    variant: str | None = None
    """Name of the network's configuration."""
    config: EfficientViTConfig | None = None
    """The network's configuration; its head tells the number of classes."""
    class_names: tuple[str, ...] | None = None
    """Name of each logit."""
    preprocessing: Preprocessing | None = None
    """What must happen to a picture first."""
    temperature: float | None = None
    """What its logits must be divided by before they become probabilities; None where they are not. The file gives
    them as the network does, so that the two can be compared."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from."""
    version: str | None = None
    """Version of effvit that wrote the file."""
    verification: dict[str, Any] | None = None
    """How far the file was from the network, see `Verification.to_dict`; where it could not be run, why."""
    file_format: str | None = None
    """Name of the format, see `effvit export --list`."""
    precision: str | None = None
    """Number format of weights and arithmetic: fp32, fp16 or int8."""
    batch_size: int | None = None
    """Pictures per call; None where any number will do."""
    takes_pixels: bool = False
    """Whether it takes uint8 pictures (B, H, W, C) and normalises inside."""
    num_bytes: int | None = None
    """Size of the file before this description was added."""
    detector: dict[str, Any] | None = None
    """What a detector is, see `effvit.detection.config.DetectorConfig.to_dict`; None for a classifier."""
    quantization: dict[str, Any] | None = None
    """How it was brought to int8, see `effvit.deploy.quantization.damage`."""

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """What the file takes, see `ExportedModel.input_shape`, for formats that do not tell by themselves.

        Raises:
            WeightsError: If the description does not say it.
        """
        if self.preprocessing is None:
            raise WeightsError("it does not say which pictures it takes: it was not exported by effvit")
        channels, (height, width) = len(self.preprocessing.mean), self.preprocessing.image_size
        picture = (height, width, channels) if self.takes_pixels else (channels, height, width)
        return self.batch_size, *picture

    def to_properties(self) -> dict[str, str]:
        """Text by key, as file formats keep it; what is None or empty is left out."""
        return {
            _PREFIX + key: json.dumps(value, ensure_ascii=False, default=_to_dict)
            for key, value in vars(self).items()
            if value
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> FileMetadata:
        """Read what `to_properties` wrote; keys of other tools and of later versions are passed over.

        Raises:
            WeightsError: If a value is damaged.
        """
        values = {}
        for key in cls.__dataclass_fields__:
            text = properties.get(_PREFIX + key)
            if text is None:
                continue
            try:
                values[key] = _READ.get(key, _same)(json.loads(text))
            except (ValueError, TypeError, AttributeError) as error:
                raise WeightsError(f"damaged metadata, {_PREFIX}{key}: {error}") from error
        return cls(**values)


def _to_dict(value: EfficientViTConfig | Preprocessing) -> dict[str, Any]:
    return value.to_dict()


def _same(value: Any) -> Any:
    return value


_READ: dict[str, Callable[[Any], Any]] = {
    "config": EfficientViTConfig.from_dict,
    "class_names": tuple,
    "preprocessing": Preprocessing.from_dict,
}
"""How a value is made from its JSON, where it is not the JSON value itself."""
