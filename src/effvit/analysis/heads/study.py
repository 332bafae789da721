"""The whole of Fig. 4 for some networks: their variants, their similarity, their maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from effvit.analysis.heads.pictures import draw_window_maps, window_maps
from effvit.analysis.heads.report import HeadsEntry, MapGrid, block_label
from effvit.analysis.heads.similarity import HeadSimilarity, head_similarity
from effvit.analysis.heads.splits import split_variants
from effvit.analysis.report import counted
from effvit.data.loaders import PictureLoader, UnreadableCount
from effvit.data.samples import Sample, one_line
from effvit.data.transforms import eval_transform, normalize
from effvit.errors import ConfigError, DataError
from effvit.model.sources import FoundModel
from effvit.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What every network is shown."""

    samples: tuple[Sample, ...]
    """The pictures."""
    batch_size: int = 16
    """Pictures at once."""
    num_workers: int = 0
    """Processes that decode."""


@dataclass(frozen=True, kw_only=True)
class MapChoice:
    """Which maps are drawn."""

    picture: int = 1
    """Which of the pictures, from 1."""
    blocks: tuple[int, ...] = ()
    """Which blocks, from 1; empty for the first, the middle and the last."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What was found for one network."""

    entries: tuple[HeadsEntry, ...]
    """The network, then its variants."""
    grids: tuple[MapGrid, ...]
    """Pictures of maps, if they were asked for."""
    unreadable: tuple[str, ...]
    """Pictures that could not be read, a line each."""


def study_heads(
    found: FoundModel,
    pictures: Pictures,
    *,
    splits: bool = False,
    maps: MapChoice | None = None,
    device: str = "cpu",
    on_picture: Callable[[str, int, int], None] | None = None,
) -> Study:
    """Measure how alike the heads of a network are, and of its variants with and without head splits.

    Args:
        found: The network.
        pictures: What it is shown.
        splits: Whether to make variants, see `split_variants`.
        maps: Which maps to draw; None for none.
        device: Where it runs.
        on_picture: Told the variant, and how many pictures of how many were seen.

    Raises:
        ConfigError: If the network has no attention, takes no pictures of three channels, its heads cannot be split,
            or a block or a picture is asked for that is not there.
        DataError: If too many pictures cannot be read.
    """
    if found.input_size[0] != len(found.preprocessing.mean) or found.input_size[0] != 3:
        raise ConfigError(f"{found.label} takes pictures of {found.input_size[0]} channels, and photos have 3")
    if maps is not None and not 1 <= maps.picture <= len(pictures.samples):
        raise ConfigError(f"there is no picture {maps.picture}: {counted(len(pictures.samples), 'picture')} in all")
    networks = {"": found.network}
    if splits:
        networks |= split_variants(found.network, fresh=found.is_random)
    entries, grids = [], []
    unreadable: list[str] = []
    for variant, network in networks.items():
        network = network.to(device)
        stream = _Stream(pictures, found.preprocessing)
        told = None if on_picture is None else partial(_tell, on_picture, variant, len(pictures.samples))
        entry = HeadsEntry(
            label=found.label,
            weights=found.weights,
            variant=variant,
            similarity=head_similarity(network, stream.batches(), on_picture=told),
        )
        entries.append(entry)
        unreadable = stream.unreadable
        if maps is not None:
            sample = pictures.samples[maps.picture - 1]
            grids.append(_grid(entry, network, sample, found.preprocessing, maps))
    return Study(entries=tuple(entries), grids=tuple(grids), unreadable=tuple(unreadable))


def _tell(on_picture: Callable[[str, int, int], None], variant: str, total: int, done: int) -> None:
    on_picture(variant, done, total)


class _Stream:
    """Batches for one network, and word of what could not be read."""

    def __init__(self, pictures: Pictures, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.unreadable: list[str] = []
        self.loader = PictureLoader(
            pictures.samples,
            eval_transform(preprocessing),
            batch_size=pictures.batch_size,
            num_workers=pictures.num_workers,
        )

    def batches(self) -> Iterator[Tensor]:
        """Normalised pictures, those that can be read.

        Raises:
            DataError: If none can be read.
        """
        count = UnreadableCount(len(self.loader.samples), max_share=0.1)
        for batch in self.loader.batches():
            count.add(batch.unreadable)
            self.unreadable = count.reasons
            if len(batch.images):
                yield normalize(batch.images, self.preprocessing)
        if self.unreadable and len(self.unreadable) == len(self.loader.samples):
            raise DataError(f"no pictures to look at: {'; '.join(self.unreadable)}")


def _grid(
    entry: HeadsEntry, network: nn.Module, sample: Sample, preprocessing: Preprocessing, choice: MapChoice
) -> MapGrid:
    names = _chosen(entry.similarity, choice.blocks)
    (batch,) = PictureLoader([sample], eval_transform(preprocessing), batch_size=1).batches()
    if batch.unreadable:
        raise ConfigError(f"picture {choice.picture}, whose maps are to be drawn: {batch.unreadable[0].reason}")
    photo = batch.images[0]
    shown = window_maps(network, photo, preprocessing, names)
    numbers = {block.name: number for number, block in enumerate(entry.similarity.blocks, start=1)}
    labels = {name: f"block {numbers[name]}: {block_label(name)}" for name in names}
    title = f"{entry.name}, {entry.weights} weights"
    return MapGrid(
        entry=entry,
        picture=one_line(sample.path.name if not sample.member else sample.member),
        draw=lambda: draw_window_maps(photo, shown, labels, title),
    )


def _chosen(similarity: HeadSimilarity, numbers: Sequence[int]) -> list[str]:
    blocks = similarity.blocks
    if wrong := [number for number in numbers if not 1 <= number <= len(blocks)]:
        raise ConfigError(f"there is no block {wrong[0]}: {counted(len(blocks), 'block')} with attention")
    last = len(blocks)
    return [blocks[number - 1].name for number in sorted(set(numbers or (1, (last + 1) // 2, last)))]
