"""A detector's scores as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effvit.detection.scores import percent

if TYPE_CHECKING:
    from rich.table import Table

_MAX_CLASSES = 10


def scores_table(summary: dict[str, Any]) -> Table:
    """COCO's numbers, then the classes, the worst first."""
    from rich.table import Table

    from effvit.cli.render import cell

    main = summary["masks"] or summary["boxes"]
    table = Table(title_justify="left", caption_justify="left", title=_title(summary))
    for column in ("class", "things", "AP %", "AP50 %", "found %"):
        table.add_column(column, justify="left" if column == "class" else "right", overflow="fold")
    present = [row for row in main["per_class"] if row["num_things"]]
    hardest = sorted(present, key=lambda row: row["ap"] or 0)
    for row in hardest[:_MAX_CLASSES]:
        numbers = (row["ap"], row["ap50"], row["recall"])
        table.add_row(cell(row["name"]), f"{row['num_things']}", *map(percent, numbers))
    absent = len(main["per_class"]) - len(present)
    notes = [_sizes(main), "found: at an overlap (IoU) of .5, however unsurely"]
    if len(hardest) > _MAX_CLASSES:
        notes.append(f"the {_MAX_CLASSES} hardest of {len(hardest)} classes; all are in summary.json")
    if absent:
        notes.append(f"{absent} classes have no thing on these pictures, and no score")
    table.caption = "\n".join(notes)
    return table


def _title(summary: dict[str, Any]) -> str:
    parts = [f"box AP {percent(summary['boxes']['ap'])} %, AP50 {percent(summary['boxes']['ap50'])} %"]
    if summary["masks"]:
        parts.append(f"mask AP {percent(summary['masks']['ap'])} %, AP50 {percent(summary['masks']['ap50'])} %")
    unreadable = f", {len(summary['unreadable'])} unreadable" if summary.get("unreadable") else ""
    return f"{'; '.join(parts)}; {summary['num_things']} things on {summary['num_pictures']} pictures{unreadable}"


def _sizes(main: dict[str, Any]) -> str:
    sizes = ", ".join(f"{size} {percent(main[f'ap_{size}']) or 'none'}" for size in ("small", "medium", "large"))
    return f"AP75 {percent(main['ap75'])} %; AP by size: {sizes}; AR {percent(main['ar_100'])} %"
