"""EfficientViT-M (arXiv:2305.07027) as software: exact networks, training, checked export, honest benchmarks.

The public names are resolved on first use, so that `import effvit` costs nothing and torch is
imported only when a network is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "DetectorConfig": "effvit.detection.config",
    "EfficientViT": "effvit.model.network",
    "EfficientViTConfig": "effvit.model.config",
    "EffvitError": "effvit.errors",
    "Preprocessing": "effvit.preprocessing",
    "WeightsInfo": "effvit.model.checkpoints",
    "benchmark": "effvit.deploy.speed.benchmark",
    "create_detector": "effvit.detection.detectors",
    "create_model": "effvit.model.factory",
    "export": "effvit.deploy.export",
    "list_variants": "effvit.model.variants",
    "load": "effvit.model.factory",
    "load_detector": "effvit.detection.saving",
    "rewrite": "effvit.deploy.rewrite",
    "save": "effvit.model.checkpoints",
    "save_detector": "effvit.detection.saving",
    "save_foreign": "effvit.model.checkpoints",
}

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from effvit.deploy.export import export as export
    from effvit.deploy.rewrite import rewrite as rewrite
    from effvit.deploy.speed.benchmark import benchmark as benchmark
    from effvit.detection.config import DetectorConfig as DetectorConfig
    from effvit.detection.detectors import create_detector as create_detector
    from effvit.detection.saving import load_detector as load_detector
    from effvit.detection.saving import save_detector as save_detector
    from effvit.errors import EffvitError as EffvitError
    from effvit.model.checkpoints import WeightsInfo as WeightsInfo
    from effvit.model.checkpoints import save as save
    from effvit.model.checkpoints import save_foreign as save_foreign
    from effvit.model.config import EfficientViTConfig as EfficientViTConfig
    from effvit.model.factory import create_model as create_model
    from effvit.model.factory import load as load
    from effvit.model.network import EfficientViT as EfficientViT
    from effvit.model.variants import list_variants as list_variants
    from effvit.preprocessing import Preprocessing as Preprocessing


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'effvit' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
