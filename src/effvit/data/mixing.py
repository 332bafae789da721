"""What is done to the pictures of a batch on the device, after normalisation: erasing, mixup and cutmix, by timm."""

from __future__ import annotations

from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from effvit.data.augmentation import Augmentation
from effvit.data.randomness import derive_seed, seeded
from effvit.errors import ConfigError


class Mixer:
    """Mixes each picture of a batch with another of it, and their targets alike: mixup, cutmix, or either by chance.

    Picture i goes with picture -1-i; in a batch of odd length the one in the middle goes with itself, and stays as
    it is. Targets are always soft, so a loss for class indices is never given mixed ones, whichever kind is on.

    Args:
        augmentation: Which kinds, how strong, how often.
        num_classes: Columns of the soft targets.
        label_smoothing: Probability mass taken from the true class and spread over all, 0 up to below 1.

    Raises:
        ConfigError: If the augmentation mixes nothing.

    Source: mixup arXiv:1710.09412, cutmix arXiv:1905.04899.
    """

    def __init__(self, augmentation: Augmentation, num_classes: int, label_smoothing: float) -> None:
        if not augmentation.mixes:
            raise ConfigError("a Mixer needs mixup or cutmix above 0 and mix_probability above 0")
        self._label_smoothing = label_smoothing
        self._num_classes = num_classes
        self._mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=augmentation.mixup,
            cutmix_alpha=augmentation.cutmix,
            prob=augmentation.mix_probability,
            switch_prob=augmentation.mix_switch,
            label_smoothing=label_smoothing,
            num_classes=num_classes,
        )

    def __call__(self, images: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: Normalised pictures, floating point, (B, C, H, W); overwritten.
            targets: Class indices, (B,).
            seed: Everything that is drawn depends on it alone.

        Returns:
            The pictures and soft targets, float32, (B, num_classes).
        """
        with seeded(derive_seed("mixing", seed)):
            # Not the public call: it refuses batches of odd length, which this inner part mixes well.
            share = self._mixup._mix_batch(images)  # type: ignore[no-untyped-call]
        soft: Tensor = mixup_target(  # type: ignore[no-untyped-call]
            targets, self._num_classes, share, self._label_smoothing
        )
        return images, soft


class Eraser:
    """Fills a random rectangle of some pictures, 2 % to a third of their area, with noise, one colour or the mean.

    Normal noise belongs on normalised pictures, so this runs after `normalize`, and before mixing as in timm.

    Args:
        augmentation: How often, and with what.

    Raises:
        ConfigError: If the augmentation erases nothing.

    Source: arXiv:1708.04896.
    """

    def __init__(self, augmentation: Augmentation) -> None:
        if augmentation.random_erasing == 0:
            raise ConfigError("an Eraser needs random_erasing above 0")
        self._augmentation = augmentation

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Erase in a batch.

        Args:
            images: Normalised pictures, floating point, (B, C, H, W); overwritten.
            seed: Everything that is drawn depends on it and the device alone.

        Returns:
            The pictures.
        """
        options = self._augmentation
        erase = RandomErasing(  # type: ignore[no-untyped-call]
            options.random_erasing, mode=options.erasing_mode, device=images.device
        )
        with seeded(derive_seed("erasing", seed), images.device):
            erased: Tensor = erase(images)
        return erased
