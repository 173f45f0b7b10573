"""A picture of how long requests and messages took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from zapq.programs.bench import Measured

FORMATS = (".svg", ".png", ".pdf")
"""By the end of a file's name."""
_TICKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)


def plot(measured: Measured, file: Path) -> None:
    """Write a picture of both distributions to `file`: milliseconds over the share of those that took less.

    The axis of shares gives as much room to the slowest percent as to the ten before it, for it is what clients
    feel. Raises OSError if the file cannot be written.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in (("put", measured.puts), ("put to receive", measured.ways)):
        if values:
            axes.plot(*curve(values), label=name)
    axes.set(xscale="log", yscale="log", xlabel="percentile", ylabel="milliseconds")
    axes.set_xticks([_place(each / 100) for each in _TICKS], [f"{each:g}" for each in _TICKS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file)


def curve(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return where each value stands on the axis of shares, and its milliseconds, in order."""
    ordered = sorted(values)
    return [_place(at / len(ordered)) for at in range(len(ordered))], [1000 * each for each in ordered]


def _place(share: float) -> float:
    return 1 / (1 - share)
