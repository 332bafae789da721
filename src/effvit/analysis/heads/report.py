"""What the heads of some networks have in common, in words, a table and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effvit.analysis.heads.similarity import BlockSimilarity, HeadSimilarity
from effvit.analysis.report import Chart, Report, Table, counted
from effvit.environment import environment
from effvit.figures import SERIES, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = (
    "Paper, Fig. 4 (ImageNet, trained networks): Swin-T-1.25x up to about 0.86 in its last blocks and 0.82 with head"
    " splits; DeiT-T about 0.61 to 0.64, and 0.59 to 0.615 with head splits."
)
_CAPTION = (
    "similarity: mean over heads of the largest cosine similarity of a head's map with any other head's, each map one"
    " vector, averaged over windows and pictures (Fig. 4); ±: its standard error over pictures; correlation: the same"
    " with each map's mean taken off; flatness: cosine similarity of a map with the flat one. Two maps of flatness f"
    " that have nothing else in common are alike by f x f."
)
_ENDINGS = ("attn", "attention", "self_attention", "self_attn", "mixer", "body", "m", "fn")


@dataclass(frozen=True, kw_only=True)
class HeadsEntry:
    """One network, or one variant of it."""

    label: str
    """What it is called."""
    weights: str
    """`random`, `pretrained`, `given`, or whose they are."""
    variant: str = ""
    """What was changed in it: empty, `head splits`, `no cascade` ..."""
    similarity: HeadSimilarity
    """What was measured."""

    @property
    def name(self) -> str:
        """Label and variant."""
        return f"{self.label}, {self.variant}" if self.variant else self.label


@dataclass(frozen=True, kw_only=True)
class MapGrid:
    """A picture grid of maps, ready to be drawn."""

    entry: HeadsEntry
    """Whose maps."""
    picture: str
    """Which picture."""
    draw: Callable[[], Figure]
    """Draws it."""


def heads_report(
    entries: Sequence[HeadsEntry], *, data: str, command: str, grids: Sequence[MapGrid] = (), notes: Sequence[str] = ()
) -> Report:
    """Say what was found.

    Args:
        entries: Networks and variants, a line in the plot each; a variant follows the network it was made from.
        data: The pictures, in words.
        command: What was typed.
        grids: Pictures of maps.
        notes: Further sentences, such as of pictures that could not be read.
    """
    similarity = Chart(
        name="similarity",
        title="How alike the heads of each block are",
        caption="Mean over heads of the largest cosine similarity with another head; bars: two standard errors. "
        + PAPER,
        draw=lambda: _draw_similarity(entries),
    )
    maps = tuple(
        Chart(
            name=f"maps-{number}" if len(grids) > 1 else "maps",
            title=f"Maps of {grid.entry.name}",
            caption=f"{grid.picture}. Above: where the token at the dot looks, from 0 (dark) to each head's own largest"
            " value, enlarged to its window. Below: the whole map, queries down, keys to the right, root scale.",
            draw=grid.draw,
            is_picture=True,
        )
        for number, grid in enumerate(grids, start=1)
    )
    return Report(
        kind="heads",
        title="Similarity of attention heads",
        conditions=f"{counted(entries[0].similarity.num_pictures, 'picture')} of {data}; maps after softmax, eval mode,"
        " class and distillation tokens included; padding that a network masks left out; cosines in float64",
        findings=(*_findings(entries), *notes, PAPER),
        tables=tuple(_table(entry, is_last=entry is entries[-1]) for entry in entries),
        charts=(similarity, *maps),
        record={
            "analysis": "heads",
            "command": command,
            "environment": environment(),
            "data": data,
            "notes": list(notes),
            "models": [
                {
                    "model": entry.label,
                    "variant": entry.variant,
                    "weights": entry.weights,
                    **entry.similarity.to_dict(),
                }
                for entry in entries
            ],
        },
    )


def block_label(name: str) -> str:
    """An attention's place in the network: its name without the words that every attention's name ends with."""
    module, mark, number = name.partition("#")
    parts = module.split(".")
    while len(parts) > 1 and parts[-1] in _ENDINGS:
        parts.pop()
    return ".".join(parts) + mark + number


def mean_similarity(similarity: HeadSimilarity) -> float | None:
    """Mean over the blocks that have one; None if none has."""
    return _mean([block.similarity for block in similarity.blocks])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _findings(entries: Sequence[HeadsEntry]) -> list[str]:
    said = []
    if random := list(dict.fromkeys(entry.label for entry in entries if entry.weights == "random")):
        said.append(f"The weights of {', '.join(random)} are RANDOM: their maps say nothing of a trained network.")
    plain: HeadsEntry | None = None
    for entry in entries:
        if not entry.variant:
            plain = entry
        said += _about(entry)
        if entry.variant and plain is not None:
            said += _compared(plain, entry)
    return said


def _about(entry: HeadsEntry) -> list[str]:
    blocks = entry.similarity.blocks
    known = [
        (block.similarity, number, block) for number, block in enumerate(blocks, 1) if block.similarity is not None
    ]
    said = []
    if known:
        least, most = min(known, key=lambda item: item[:2]), max(known, key=lambda item: item[:2])
        mean, flat = mean_similarity(entry.similarity), _mean([block.flatness for *_, block in known])
        correlation = _mean([block.correlation for *_, block in known])
        assert flat is not None
        span = f"from {least[0]:.3f} (block {least[1]}) to {most[0]:.3f} (block {most[1]})"
        said.append(
            f"{entry.name}: similarity {mean:.3f} on average over {counted(len(known), 'block')}, {span}."
            f" Maps as flat as these ({flat:.3f} on average) would be alike by about {flat * flat:.3f} with nothing"
            f" else in common; their correlation is {correlation:.3f}."
        )
    single = [str(number) for number, block in enumerate(blocks, 1) if block.num_heads == 1]
    if single:
        said.append(f"{entry.name}: {_blocks(single)} a single head, which has no other to be like.")
    keyless = [str(number) for number, block in enumerate(blocks, 1) if not block.num_windows]
    if keyless:
        said.append(f"{entry.name}: {_blocks(keyless)} maps of a single key, which are all the same.")
    if some := sum(block.num_left_out for block in blocks if block.num_windows):
        said.append(f"{entry.name}: left out: {counted(some, 'window')} with a single token in the picture.")
    if entry.similarity.unread:
        unread = list(entry.similarity.unread)
        more = f" and {len(unread) - 2} more" if len(unread) > 2 else ""
        said.append(f"{entry.name}: not read as attention: {'; '.join(unread[:2])}{more}.")
    return said


def _blocks(numbers: Sequence[str]) -> str:
    return f"block {numbers[0]} has" if len(numbers) == 1 else f"blocks {', '.join(numbers)} have"


def _compared(plain: HeadsEntry, variant: HeadsEntry) -> list[str]:
    """A variant beside its network, over the blocks that both have."""
    before, after = mean_similarity(plain.similarity), mean_similarity(variant.similarity)
    if before is None or after is None:
        return []
    told = (
        ""
        if plain.weights == "random"
        else " The weights were trained without this change and not again after it, so"
        " this is what a cut does, not what a training would find."
    )
    change = round(after - before, 3) + 0.0  # never -0
    return [f"{variant.name}: {change:+.3f} against {plain.name} ({before:.3f} to {after:.3f}).{told}"]


def _table(entry: HeadsEntry, *, is_last: bool) -> Table:
    rows = [_row(number, block) for number, block in enumerate(entry.similarity.blocks, start=1)]
    return Table(
        title=f"{entry.name} ({entry.weights} weights)",
        columns=("block", "place", "heads", "map", "windows", "similarity", "±", "correlation", "flatness"),
        rows=tuple(rows),
        caption=_CAPTION if is_last else "",
        num_text_columns=2,
    )


def _row(number: int, block: BlockSimilarity) -> tuple[str, ...]:
    return (
        str(number),
        block_label(block.name),
        str(block.num_heads),
        f"{block.map_shape[0]} x {block.map_shape[1]}",
        f"{block.windows_per_picture:g}",
        *(_number(value) for value in (block.similarity, block.standard_error, block.correlation, block.flatness)),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _draw_similarity(entries: Sequence[HeadsEntry]) -> Figure:
    from matplotlib.ticker import MaxNLocator  # slow to import

    figure, (panel,) = panels(1, width=7.6, height=4.4 + 0.1 * len(entries))
    labels = list(dict.fromkeys(entry.label for entry in entries))
    variants = list(dict.fromkeys(entry.variant for entry in entries if entry.variant))
    for entry in entries:
        colour = SERIES[labels.index(entry.label) % len(SERIES)]
        style = 1 + variants.index(entry.variant) if entry.variant else 0
        blocks = entry.similarity.blocks
        panel.errorbar(
            range(1, len(blocks) + 1),
            [float("nan") if block.similarity is None else block.similarity for block in blocks],
            yerr=[2 * (block.standard_error or 0.0) for block in blocks],
            color=colour,
            linestyle=("-", "--", ":", "-.")[style % 4],
            marker=("o", "s", "^", "D")[style % 4],
            markerfacecolor="white" if entry.variant else colour,
            markersize=4.5,
            linewidth=1.4,
            elinewidth=0.8,
            label=entry.name + (" (random weights)" if entry.weights == "random" else ""),
        )
    panel.set_xlabel("block, in the order of the forward pass")
    panel.set_ylabel("similarity of heads")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(fontsize=8, frameon=False, loc="outside lower left", ncols=2)
    return figure
