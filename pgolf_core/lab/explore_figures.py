"""What the controls of notebooks 02, 05 and 06 draw: their values in, a figure, its numbers and a sentence out.

Each class is made once in a notebook, holds what is costly, and draws in well under a second. Values that make no
figure are UserErrors. Nothing here knows of widgets; `pgolf_core/lab/explore.py` puts them on.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from pgolf_core.evaluate import Score, plan_windows
from pgolf_core.files import UserError
from pgolf_core.lab import analysis_scoring, plots


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One drawing."""

    figure: Figure
    table: pd.DataFrame
    """The numbers in the figure."""
    said: str
    """One sentence or two that give what the figure cannot: counts, costs."""


# ---------------------------------------------------------------------- 06: windows


class Windows:
    """Plans of windows over a stream: which window scores what, with how much context, at what cost."""

    MOST_WINDOWS = 2_000_000
    """More of them take longer to plan than a figure may."""
    SHOWN = 12

    def __init__(self, by_context: pd.DataFrame, sliding: Score):
        """`by_context` is analysis_scoring.bpb_by_context of side-by-side windows, `sliding` the run's own score."""
        self.targets, self.window, self.stride = sliding.tokens, sliding.seq_len, sliding.stride
        self._by_context = by_context
        own = plan_windows(self.targets, self.window, self.stride)
        self._seconds = sliding.seconds / max(1, int((own[:, 2] - own[:, 0]).sum()))
        halvings = {self.window * 2 // 2**k for k in range(2 * self.window.bit_length())} - {0}
        self.windows = sorted(size for size in halvings if 32 * size >= self.window)
        self.strides = sorted({*halvings, self.stride})

    def draw(self, window: int, stride: int) -> Drawn:
        """The first windows of that plan, and the context of all its targets."""
        if stride > window:
            raise UserError(
                f"stride {stride:,} is larger than window {window:,}: the targets between two windows would never be "
                f"scored; choose a stride of at most {window:,}"
            )
        if self.targets // stride > self.MOST_WINDOWS:
            raise UserError(
                f"stride {stride} makes {self.targets // stride:,} windows, too many to plan in a second; choose a "
                f"stride of at least {-(-self.targets // self.MOST_WINDOWS)}"
            )
        plan = plan_windows(self.targets, window, stride)
        table = self._contexts(plan)
        positions = int((plan[:, 2] - plan[:, 0]).sum())
        least = int((plan[1:, 1] - plan[1:, 0]).min(initial=window - 1)) + 1
        said = (
            f"{len(plan):,} windows read {positions:,} positions to score {self.targets:,} targets, "
            f"{positions / self.targets:.2f} a target: about {self._seconds * positions:,.1f} s at the speed of "
            f"this run's sliding score. After the first window a target has {least:,} to {window:,} tokens of context."
        )
        return Drawn(_windows_figure(plan[: self.SHOWN], table, self._by_context, window, stride), table, said)

    def _contexts(self, plan: np.ndarray) -> pd.DataFrame:
        """Share of the targets by tokens of context, in bins 1, 2, 3-4, 5-8, …: columns first, last, share."""
        counts = analysis_scoring.context_counts(plan)
        bins = np.ceil(np.log2(np.maximum(np.arange(len(counts)), 1))).astype(np.int64)
        shares = np.bincount(bins, weights=counts) / self.targets
        last = 2 ** np.arange(len(shares))
        return pd.DataFrame({"first": last // 2 + 1, "last": last, "share": shares}).assign(
            first=lambda table: np.minimum(table["first"], table["last"])
        )


@plots.styled
def _windows_figure(plan: np.ndarray, table: pd.DataFrame, measured: pd.DataFrame, window: int, stride: int) -> Figure:
    fig, (left, right) = _two_panels(3.6, f"Window {window:,}, stride {stride:,}")
    context, scored = (mpl.colormaps["cividis"](place) for place in (0.0, 1.0))  # the colours of the toy text's picture
    rows = np.arange(len(plan))
    left.barh(rows, plan[:, 1] - plan[:, 0], left=plan[:, 0], height=0.7, color=context)
    left.barh(rows, plan[:, 2] - plan[:, 1], left=plan[:, 1], height=0.7, color=scored)
    left.invert_yaxis()
    left.grid(axis="y", visible=False)
    left.set(xlabel="target", ylabel=f"window (the first {len(plan)})", xlim=(0, max(1, int(plan[:, 2].max()))))
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    words = ((context, "only read"), (scored, "scored"))
    left.legend(handles=[Patch(color=colour, label=word) for colour, word in words], loc="best")

    edges = np.concatenate(([0.5], table["last"]))
    right.bar(edges[:-1], 100 * table["share"], width=np.diff(edges), align="edge", color=scored, edgecolor="white")
    right.set_xscale("log", base=2)
    right.set_xticks(table["last"], [f"{last:,}" for last in table["last"]], fontsize=8)
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set(xlabel="tokens of context (log scale)", ylabel="bars: targets (%)", ylim=(0, 100))
    right.grid(axis="x", visible=False)
    worth = right.twinx()
    worth.plot(measured["middle"], measured["bpb"], "o-", color="#222222", markersize=4)
    worth.set_ylabel("line: bits per byte at that context")
    worth.grid(visible=False)
    worth.spines["right"].set_visible(True)
    return fig


# ---------------------------------------------------------------------- small helpers


def _two_panels(height: float, title: str) -> tuple[Figure, tuple[Axes, Axes]]:
    fig = plots.Chart(figsize=(8.4, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    fig.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
    axes: Any = fig.subplots(1, 2)
    return fig, (axes[0], axes[1])
