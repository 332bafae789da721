"""Charts can be read: labels of an axis do not run together."""

from __future__ import annotations

import pytest

from effvit.figures import panels, plain_log_ticks


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1, 9, ["1", "1.5", "2", "3", "5", "7"]),
        (0.05, 10, ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10"]),
        (0.01, 100, ["0.01", "0.1", "1", "10", "100"]),
    ],
)
def test_a_wide_logarithmic_axis_has_fewer_labels(low: float, high: float, labels: list[str]) -> None:
    _, (panel,) = panels(1, width=6.2, height=5.2)
    panel.scatter([low, high], [0, 1])
    panel.set_xscale("log")
    plain_log_ticks(panel.xaxis)
    panel.set_xlim(0.999 * low, 1.001 * high)
    ticks = [tick for tick in panel.xaxis.get_major_locator()() if low <= tick * 1.001 and tick <= high * 1.001]
    assert [panel.xaxis.get_major_formatter()(tick, 0) for tick in ticks] == labels
