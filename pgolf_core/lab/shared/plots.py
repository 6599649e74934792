"""Figures: one style, one colour per method and per seed everywhere, units on every axis.

Every function takes plain data and returns a matplotlib Figure. pyplot is never imported, so no global state is left
behind and figures are freed with their last reference. The palette is Okabe and Ito's ("Color Universal Design", 2008),
which stays distinct in the common forms of colour blindness.
"""

import io
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from pgolf_core.base.files import UserError, write_bytes

PALETTE = ("#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#0072B2")
COLOURS = {
    "raw": "#0072B2", "averaged": "#009E73", "round-trip": "#E69F00", "sliding": "#D55E00", "adapted": "#CC79A7",
    "train": "#56B4E9", "validation": "#D55E00",
    "weights": "#0072B2", "scales": "#56B4E9", "header": "#CC79A7", "code": "#E69F00", "free": "#E8E8E8",
    "fp16": "#999999", "int5": "#D55E00", "int6": "#0072B2", "int7": "#CC79A7", "int8": "#009E73",
}  # fmt: skip
"""Fixed colour of every method, split, ledger part and grid family; anything else gets the palette's in order."""
MARKERS = ("o", "s", "D", "^", "v")
SEQUENCE = "viridis"
DPI = 150
LOOKS: Any = {
    "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white",
    "font.family": ["DejaVu Sans"], "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222", "xtick.color": "#444444", "ytick.color": "#444444", "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E3E3E3", "grid.linewidth": 0.8, "legend.frameon": False, "legend.fontsize": 9,
    "lines.linewidth": 1.6, "lines.markersize": 5,
}  # fmt: skip

styled = mpl.rc_context(LOOKS)
"""Decorator: run under the project's style, and restore the caller's settings."""
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""{name: (x, y)}, equally long."""


class Chart(Figure):
    """A Figure that a notebook shows by itself: without pyplot nothing else would register how."""

    drawn: bytes = b""
    """The PNG of DPI that was drawn last, good until matplotlib calls the figure stale: saved and shown, drawn once."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(inches * DPI / 1.5) for inches in self.get_size_inches())
        return png_bytes(self), {"width": width, "height": height}


def signs(number: int) -> tuple[str, str]:
    """Marker and colour of a seed, whichever others are drawn with it, or of the n-th of several: a pair for each of
    thirty. The marker is for print without colour and for seeds that share a colour."""
    return MARKERS[number % len(MARKERS)], PALETTE[number % len(PALETTE)]


def colour_of(name: str, index: int) -> str:
    """Fixed colour of a name: `seed 1337` is that seed's, `int6_row` its family's, else COLOURS or the palette's."""
    if (seed := _seed_in(name)) is not None:
        return signs(seed)[1]
    return COLOURS.get(name) or COLOURS.get(name.split("_")[0]) or PALETTE[(index + 5) % len(PALETTE)]


def _marker_of(name: str, index: int) -> str:
    return signs(index if (seed := _seed_in(name)) is None else seed)[0]


def _seed_in(name: str) -> int | None:
    found = re.match(r"seed (\d+)\b", name)
    return int(found[1]) if found else None


@styled
def png_bytes(fig: Chart) -> bytes:
    """The figure as a PNG file that holds neither a time nor a version, so that equal figures are equal files."""
    if fig.stale or not fig.drawn:
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        fig.drawn, fig.stale = buffer.getvalue(), False
    return fig.drawn


def save_figure(fig: Chart, folder: Path | str, name: str, table: pd.DataFrame | None = None) -> Path:
    """Write NAME.png (150 dpi) and, where a table is given, NAME.csv with its numbers; returns the PNG's path.

    An index enters the CSV only if it is named.
    """
    if not name or Path(name).name != name:
        raise UserError(f"figure name '{name}' must be a plain file name without its ending")
    path = Path(folder) / f"{name}.png"
    write_bytes(path, png_bytes(fig))
    if table is not None:
        has_index = any(level is not None for level in table.index.names)
        write_bytes(path.with_suffix(".csv"), table.to_csv(index=has_index, lineterminator="\n").encode("utf-8"))
    return path


def figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (7.0, 3.4), title: str = "", share_x: bool = False
) -> tuple[Chart, list[Axes]]:
    """A chart of `size` inches and its axes, row by row; whoever fills them is `styled`."""
    fig = Chart(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))  # inches of air for the labels
    axes = list(fig.subplots(rows, columns, sharex=share_x, squeeze=False).flat)
    if title and len(axes) == 1:
        axes[0].set_title(title)
    elif title:
        fig.suptitle(title, x=0.01, ha="left", weight="bold")
    return fig, axes


@styled
def histogram(
    groups: Mapping[str, Sequence[float]], *, x_label: str, y_label: str, title: str = "", log_y: bool = False,
    grid_values: Sequence[float] = (),
) -> Chart:  # fmt: skip
    """Histogram of raw values, one outline per group on common bins; `grid_values` are drawn as thin vertical lines."""
    arrays = {name: np.asarray(values, dtype=float).ravel() for name, values in groups.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(arrays.values())), bins=60).tolist()
    fig, (ax,) = figure(title=title)
    for index, (name, values) in enumerate(arrays.items()):
        colour = colour_of(name, index)
        ax.hist(values, bins=edges, histtype="stepfilled", color=colour, alpha=0.25)
        ax.hist(values, bins=edges, histtype="step", color=colour, linewidth=1.4, label=name or None)
    ax.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_y else "linear")
    draw_grid(ax, grid_values)
    return _with_legend(fig, ax, wanted=len(arrays) > 1 or len(grid_values) > 0)


def draw_grid(ax: Axes, values: Sequence[float] | np.ndarray) -> None:
    """Thin vertical lines at a grid's values, counted in the legend, instead of the axes' own."""
    for value in values:
        ax.axvline(float(value), color="#BBBBBB", linewidth=0.7, zorder=0.5)
    ax.grid(axis="x", visible=not len(values))
    if len(values):
        ax.plot([], [], color="#BBBBBB", label=f"grid ({len(values)} values)")


@styled
def bars(groups: Series, *, x_label: str, y_label: str, title: str = "", log_y: bool = False, note: str = "") -> Chart:
    """Vertical bars at integer positions, {name: (positions, heights)}: counts of bytes, codes, token lengths.

    Several groups stand side by side. `note` is printed in the upper corner (an entropy, a mean).
    """
    fig, (ax,) = figure(title=title)
    most = max(len(positions) for positions, _ in groups.values())
    width = (0.86 if most * len(groups) < 100 else 1.0) / len(groups)  # gaps below a pixel would flicker
    for index, (name, (positions, heights)) in enumerate(groups.items()):
        x = np.asarray(positions, dtype=float) + (index - (len(groups) - 1) / 2) * width
        ax.bar(x, heights, width=width, color=colour_of(name, index), label=name or None)
    ax.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_y else "linear")
    ax.grid(axis="x", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    if note:
        ax.text(0.99, 0.97, note, transform=ax.transAxes, ha="right", va="top", color="#444444")
    return _with_legend(fig, ax, wanted=len(groups) > 1, outside=bool(note))


@styled
def grouped_bars(
    table: pd.DataFrame, *, x_label: str, y_label: str, title: str = "", value_format: str = "{:.4f}"
) -> Chart:
    """One group of bars per row of `table`, one bar per column, from zero, each with its value written on it."""
    fig, (ax,) = figure(title=title)
    width = 0.86 / len(table.columns)
    for index, name in enumerate(map(str, table.columns)):
        x = np.arange(len(table)) + (index - (len(table.columns) - 1) / 2) * width
        drawn = ax.bar(x, table.iloc[:, index], width=width * 0.94, color=colour_of(name, index), label=name)
        ax.bar_label(drawn, fmt=value_format, fontsize=8, padding=2, rotation=90 if table.size > 12 else 0)
    ax.set_xticks(range(len(table)), list(map(str, table.index)))
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.margins(y=0.25 if table.size > 12 else 0.12)
    ax.grid(axis="x", visible=False)
    return _with_legend(fig, ax, wanted=len(table.columns) > 1, outside=True)


@styled
def horizontal_bars(
    labels: Sequence[str], parts: Mapping[str, Sequence[float]] | Sequence[float], *, x_label: str, title: str = "",
    value_format: str = "{:,.0f}", share: bool = False,
) -> Chart:  # fmt: skip
    """Horizontal bars, first label on top, stacked over `parts`; totals (and shares in %) are written at the ends."""
    named = parts if isinstance(parts, Mapping) else {"": parts}
    fig, (ax,) = figure(size=(7.0, max(1.6, 0.9 + 0.27 * len(labels))), title=title)
    totals = _stack(ax, labels, named, height=0.72)
    whole = totals.sum()
    for row, total in enumerate(totals):
        text = value_format.format(total) + (f"  ({100 * total / whole:.1f}%)" if share and whole else "")
        ax.annotate(text, (total, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.margins(x=0.2 if share else 0.13, y=0.02)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlabel(x_label)
    return _with_legend(fig, ax, wanted=len(named) > 1, outside=True)


def _stack(ax: Axes, labels: Sequence[str], parts: Mapping[str, Sequence[float]], height: float) -> np.ndarray:
    """Horizontal bars, the first on top, the parts of each one after the other; their totals, float64 [labels]."""
    left = np.zeros(len(labels))
    for index, (name, lengths) in enumerate(parts.items()):
        colour = colour_of(name, index)
        ax.barh(range(len(labels)), lengths, left=left, height=height, color=colour, label=name or None)
        left = left + np.asarray(lengths, dtype=float)
    ax.set_yticks(range(len(labels)), list(labels))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return left


@styled
def curves(
    panels: Mapping[str, Series], *, x_label: str, title: str = "", log_x: bool = False, log_y: bool = False,
    markers: bool = False, ordered: bool = False, references: Mapping[str, float] | None = None,
    y_limits: tuple[float | None, float | None] | None = None, side_by_side: bool = False,
    dashed: Container[str] = (), legend_outside: bool = False,
) -> Chart:  # fmt: skip
    """Lines over a common x: `panels` is {y label with its unit: {line: (x, y)}}, one panel each.

    A line named `train` is thin; `ordered` colours lines by their order (iterations, layers); `references` are dashed
    horizontal lines in every panel; `log_x` is to the base 2, for strides and lengths; lines in `dashed` are dashed.
    """
    count = len(panels)
    height = 3.4 if side_by_side or count == 1 else 0.6 + 2.1 * count
    shape = (1, count) if side_by_side else (count, 1)
    fig, axes = figure(*shape, size=(7.0, height), title=title, share_x=not side_by_side)
    for position, (ax, (y_label, lines)) in enumerate(zip(axes, panels.items(), strict=True)):
        for index, (name, (x, y)) in enumerate(lines.items()):
            place = 0.92 * index / max(1, len(lines) - 1)  # short of the palest end, which white paper swallows
            shade = mpl.colormaps[SEQUENCE](place) if ordered else colour_of(name, index)
            is_train = "train" in name.split()
            ax.plot(
                x, y, color=shade, label=name or None, marker=_marker_of(name, index) if markers else None,
                linewidth=0.9 if is_train else 1.6, alpha=0.65 if is_train else 1.0,
                linestyle="--" if name in dashed else "-",
            )  # fmt: skip
        _refer(ax, references or {})
        ax.set(ylabel=y_label, yscale="log" if log_y else "linear")
        if log_x:
            binary_axis(ax)
        if y_limits:
            ax.set_ylim(*y_limits)
        if side_by_side or position == count - 1:
            ax.set_xlabel(x_label)
        if position == 0:
            _with_legend(fig, ax, wanted=len(lines) + len(references or {}) > 1, outside=legend_outside)
    return fig


@styled
def loss_curves(table: pd.DataFrame, *, title: str = "", skip_share: float = 0.0) -> Chart:
    """Losses of every seed; columns seed, kind ('train' or 'val'), step, loss (nats per token).

    The y axis is fitted to what comes after the first `skip_share` of the steps, whose fall would flatten the rest.
    """
    lines: dict[str, tuple[Any, Any]] = {}
    for kind, word in (("train", "train"), ("val", "validation")):
        for seed, rows in table[table["kind"] == kind].sort_values("step").groupby("seed"):
            lines[f"seed {seed} {word}"] = (rows["step"].to_numpy(), rows["loss"].to_numpy())
    fig = curves({"loss (nats per token)": lines}, x_label="training step", title=title)
    (ax,) = fig.axes
    late = table["loss"][table["step"] >= skip_share * table["step"].max()]
    if skip_share:
        ax.set_ylim(late.min() - 0.05 * np.ptp(late), late.max() + 0.05 * np.ptp(late))
    for name, line in zip(lines, ax.get_lines(), strict=True):
        if name.endswith("validation"):
            line.set(marker=_marker_of(name, 0), markersize=5, zorder=3)
    ax.legend(loc="best", ncols=2)
    return fig


@styled
def scatter(
    groups: Series, *, x_label: str, y_label: str, title: str = "", sizes: Mapping[str, Sequence[float]] | None = None,
    references: Mapping[str, float] | None = None,
) -> Chart:  # fmt: skip
    """Points, {name: (x, y)}; `sizes` scales their areas (bytes of a document, say), the largest at 160 points^2."""
    fig, (ax,) = figure(title=title)
    largest = max((float(np.max(one)) for one in (sizes or {}).values()), default=1.0)
    for index, (name, (x, y)) in enumerate(groups.items()):
        area = 160 * np.asarray(sizes[name], dtype=float) / largest if sizes else 26
        colour, marker = colour_of(name, index), _marker_of(name, index)
        ax.scatter(x, y, s=area, color=colour, marker=marker, alpha=0.7, linewidths=0, label=name or None)
    _refer(ax, references or {})
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    return _with_legend(fig, ax, wanted=len(groups) > 1 or bool(references), outside=True)


@styled
def heatmaps(
    maps: Mapping[str, np.ndarray], *, x_label: str, y_label: str, value_label: str, title: str = "", columns: int = 4,
    gamma: float = 1.0,
) -> Chart:  # fmt: skip
    """A grid of matrices on one colour scale with its unit; gamma < 1 lifts small values, NaN stays white."""
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    fig, axes = figure(rows, columns, size=(7.0, 0.7 + rows * (6.2 / columns + 0.25)), title=title)
    everything = np.concatenate([np.asarray(values, dtype=float).ravel() for values in maps.values()])
    norm = PowerNorm(gamma, np.nanmin(everything), np.nanmax(everything), clip=True)
    for ax, (name, array) in zip(axes, maps.items(), strict=False):
        image = ax.imshow(array, norm=norm, cmap="cividis", interpolation="nearest", aspect="auto")
        ax.set_title(name, fontsize=9, fontweight="normal")
        ax.grid(visible=False)
        ax.tick_params(labelsize=7)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True))
    for ax in axes[len(maps) :]:
        ax.set_axis_off()
    fig.supxlabel(x_label, fontsize=10)
    fig.supylabel(y_label, fontsize=10)
    fig.colorbar(image, ax=axes, label=value_label, shrink=0.8, pad=0.02)
    return fig


@styled
def ledger_bar(rows: Mapping[str, Mapping[str, int]], cap_bytes: int, *, title: str = "") -> Chart:
    """What fills the cap: one stacked bar of bytes per row ({row: {part: bytes}}), against the cap's line."""
    fig, (ax,) = figure(size=(7.0, 1.5 + 0.45 * len(rows)), title=title)
    parts = dict.fromkeys(part for row in rows.values() for part in row)
    lengths = {part: [row.get(part, 0) for row in rows.values()] for part in parts}
    totals = _stack(ax, list(rows), lengths, height=0.62)
    ax.axvline(cap_bytes, color="#222222", linewidth=1.6, label=f"cap {cap_bytes:,}")
    for row, total in enumerate(totals):
        inside = total > 0.5 * cap_bytes  # in white on the first part, else beside the bar
        ax.annotate(
            f"{total:,.0f} = {100 * total / cap_bytes:.1f}% of the cap", (0 if inside else total, row), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=8.5, color="white" if inside else "#222222",
        )  # fmt: skip
    ax.set(xlabel="bytes", xlim=(0, 1.04 * max(cap_bytes, totals.max())))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    return _with_legend(fig, ax, outside=True)


@styled
def seed_strip(table: pd.DataFrame, *, y_label: str) -> Chart:
    """Every seed as a point for every method: index = seeds, columns = methods; bars mark mean and one std."""
    fig, (ax,) = figure()
    offsets = (np.arange(len(table)) - (len(table) - 1) / 2) * min(0.1, 0.4 / len(table))
    for column, name in enumerate(table.columns):
        values = table[name].to_numpy(dtype=float)
        mean = values.mean()
        ax.plot([column - 0.3, column + 0.3], [mean, mean], color="#222222", linewidth=1.6, zorder=1)
        if len(values) > 1:
            std = values.std(ddof=1)
            label = "mean ± 1 std" if column == 0 else None
            ax.bar(column, 2 * std, 0.6, bottom=mean - std, color="#DDDDDD", zorder=0.5, label=label)
        for offset, seed, value in zip(offsets, table.index, values, strict=True):
            marker, colour = signs(seed)
            label = f"seed {seed}" if column == 0 else None
            ax.plot(column + offset, value, marker, color=colour, mec="white", markersize=8, zorder=2, label=label)
    ax.set_xticks(range(len(table.columns)), list(map(str, table.columns)))
    ax.set(ylabel=y_label, xlim=(-0.6, len(table.columns) - 0.4))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(axis="x", visible=False)
    ax.use_sticky_edges = False  # else the foot of a box is the axis, and cuts a seed that lies on it
    ax.margins(y=0.15)
    return _with_legend(fig, ax, outside=True)


def _refer(ax: Axes, references: Mapping[str, float]) -> None:
    for name, value in references.items():
        ax.axhline(value, color="#666666", linestyle="--", linewidth=1, label=name)


def binary_axis(ax: Axes) -> None:
    """A logarithmic x axis to the base 2 with plain numbers at its ticks."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def _with_legend(fig: Chart, ax: Axes, *, wanted: bool = True, outside: bool = False) -> Chart:
    handles, labels = ax.get_legend_handles_labels()
    if wanted and handles and outside:  # below the axes, where no bar can hide it
        fitting = max(1, 130 // (5 + max(map(len, labels))))  # some 130 characters are as wide as the figure
        across = min(6, len(handles), fitting)
        rows = -(-len(handles) // across)
        fig.set_figheight(fig.get_figheight() + 0.25 * max(0, rows - 2))  # the axes keep their height
        fig.legend(handles, labels, loc="outside lower center", ncols=across, columnspacing=1.2)
    elif wanted and handles:
        ax.legend(loc="best")
    return fig
