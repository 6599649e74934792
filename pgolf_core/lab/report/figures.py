"""The report's figures, each with its numbers as CSV: what the seeds' checked files hold, drawn for people.

Two come from tables that the notebooks of a seed leave in its figures folder (06-position, 05-rate); a run without them
has a report without these figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pgolf_core.base.files import UserError
from pgolf_core.lab.compare.records import RECORD_DIR, RECORDS, load_published
from pgolf_core.lab.look.n05_packing import stored_and_scales
from pgolf_core.lab.report.seeds import SCORES
from pgolf_core.lab.shared import plots

LEDGER_PARTS = {"weights_bytes": "weights", "scales_bytes": "scales", "header_bytes": "header", "code_bytes": "code"}
SKIPPED_SHARE = 0.08
"""The loss figure's axis is fitted to what follows this share of the steps."""
POSITION = ("06-position", {"score": str, "middle": float, "targets": float, "bpb": float, "share": float})
PACKINGS = ("05-rate", {"packing": str, "file_bytes": float, "bits": float, "bpb_lost": float})
RECORD_TRACK = "10min_16mb"
VECTORS = "vectors and scalars"


def draw_figures(folder: Path, runs: Mapping[int, Any], seeds_folder: Path) -> dict[str, Path]:
    """Write every figure that these seeds have numbers for into `folder`; {name: path of the PNG}, the CSV beside it.

    `runs` are `report.SeedRun`s by seed, `seeds_folder` holds their seed<k>/figures.
    """
    results = {seed: run.result for seed, run in runs.items()}
    first = next(iter(results.values()))
    drawn = {
        "seeds": _strip(results),
        "curves": _curves(runs),
        "bytes": _bytes(results, str(first["track"])),
        "ledger": _ledger(runs, first["cap_bytes"]),
        "tensors": _tensors(next(iter(runs.values())).ledger),
    }
    position, packings = (_tables(seeds_folder, runs, *which) for which in (POSITION, PACKINGS))
    if position is not None:
        drawn["position"] = _position(position)
    if packings is not None:
        drawn["packings"] = _packings(packings)
    return {name: plots.save_figure(fig, folder, name, table) for name, (fig, table) in drawn.items()}


Drawn = tuple[Figure, pd.DataFrame]


def _strip(results: Mapping[int, Mapping[str, Any]]) -> Drawn:
    index = pd.Index(list(results), name="seed")
    scores = pd.DataFrame(
        {label: [result[key] for result in results.values()] for key, label in SCORES.items()}, index=index
    )
    labelled = scores.rename(columns=part_labels(next(iter(results.values()))))
    return plots.seed_strip(labelled, y_label="bits per byte"), scores


def part_labels(result: Mapping[str, Any]) -> dict[str, str]:
    """Labels of the scores that cover only a part of the targets, which no reader may take for the whole."""
    share = (result.get("raw_targets") or result["val_targets"]) / result["val_targets"]
    return {} if share >= 1 else {name: f"{name}\n(first {share:.0%})" for name in ("raw", "averaged")}


def _curves(runs: Mapping[int, Any]) -> Drawn:
    curves = pd.concat([run.metrics for run in runs.values()], ignore_index=True)
    return plots.loss_curves(curves, skip_share=SKIPPED_SHARE), curves


def _ledger(runs: Mapping[int, Any], cap: int) -> Drawn:
    parts = {
        f"seed {seed}": {label: int(run.ledger[key]) for key, label in LEDGER_PARTS.items()}
        for seed, run in runs.items()
    }
    table = pd.DataFrame(list(parts.values()), index=pd.Index(list(runs), name="seed")).assign(cap=cap)
    return plots.ledger_bar(parts, cap), table


# ---------------------------------------------------------------------- bpb against bytes


def _bytes(results: Mapping[int, Mapping[str, Any]], track: str) -> Drawn:
    """Every seed's score by its bytes, against the cap; on the records' track the published seeds too."""
    first = next(iter(results.values()))
    rows = [
        {"run": "this run", "seed": seed, "total_bytes": result["total_bytes"], "bpb": result["sliding_bpb"]}
        for seed, result in results.items()
    ]
    if track == RECORD_TRACK and RECORD_DIR.is_dir():
        for record in map(load_published, RECORDS):
            rows += [
                {"run": record.name, "seed": s.seed, "total_bytes": s.total_bytes, "bpb": s.sliding_bpb}
                for s in record.seeds
                if s.total_bytes and s.sliding_bpb
            ]
    table = pd.DataFrame(rows)
    return _bytes_figure(table, first["cap_bytes"]), table.assign(cap=first["cap_bytes"])


@plots.styled
def _bytes_figure(table: pd.DataFrame, cap: int) -> Figure:
    fig, ax = _figure(3.2)
    for index, (name, rows) in enumerate(table[table["run"] != "this run"].groupby("run", sort=False)):
        colour, marker = plots.PALETTE[index % len(plots.PALETTE)], plots.MARKERS[index % len(plots.MARKERS)]
        ax.plot(rows["total_bytes"], rows["bpb"], marker, color=colour, alpha=0.7, linestyle="", label=name)
    for row in table[table["run"] == "this run"].itertuples():
        ax.plot(
            row.total_bytes, row.bpb, plots.seed_marker(row.seed), color=plots.seed_colour(row.seed), markersize=8,
            markeredgecolor="white", label=f"seed {row.seed}",
        )  # fmt: skip
    ax.axvline(cap, color="#222222", linewidth=1.6, label=f"cap {cap:,}")
    ax.set(xlabel="bytes of file and code", ylabel="sliding score (bits per byte)")
    low = min(table["total_bytes"].min(), cap)
    ax.set_xlim(low - 0.08 * (max(table["total_bytes"].max(), cap) - low) - 0.002 * cap, None)
    _bytes_axis(ax)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.margins(y=0.2)
    return _with_legend(fig, ax)


def _packings(tables: Mapping[int, pd.DataFrame]) -> Drawn:
    """What each packing of the averaged weights would have cost, mean over the seeds, by the bytes of its file."""
    long = pd.concat([table.assign(seed=seed) for seed, table in tables.items()], ignore_index=True)
    long = long.dropna(subset=["file_bytes"])
    names = ["file_bytes", "bits", "bpb_lost"]
    means = long.groupby("packing", sort=False)[names].mean().assign(seeds=long.groupby("packing")["seed"].nunique())
    return _packings_figure(means), long[["seed", "packing", *names]]


@plots.styled
def _packings_figure(means: pd.DataFrame) -> Figure:
    fig, ax = _figure(3.6)
    for index, (name, row) in enumerate(means.iterrows()):
        own = name == "this recipe"
        family = "#222222" if own else plots.colour_of(str(name), index)
        ax.plot(
            row["file_bytes"], row["bpb_lost"], "*" if own else plots.MARKERS[index % len(plots.MARKERS)], color=family,
            markersize=13 if own else 7, markeredgecolor="white", linestyle="", label=str(name), zorder=3 if own else 2,
        )  # fmt: skip
    ax.axhline(0, color="#888888", linewidth=1)
    ax.set(xlabel="bytes of the file, without code", ylabel="bpb lost by packing")
    _bytes_axis(ax)
    ax.margins(x=0.1, y=0.15)
    return _with_legend(fig, ax, columns=3)


# ---------------------------------------------------------------------- loss by position


def _position(tables: Mapping[int, pd.DataFrame]) -> Drawn:
    """The round-trip score by the tokens of context that a target has, one line a seed."""
    long = pd.concat([table.assign(seed=seed) for seed, table in tables.items()], ignore_index=True)
    side_by_side = long[long["score"] == "round-trip"]
    lines = {f"seed {seed}": (rows["middle"], rows["bpb"]) for seed, rows in side_by_side.groupby("seed", sort=False)}
    fig = plots.curves(
        {"bits per byte": lines}, x_label="tokens of context (log scale)", log_x=True, markers=True
    )  # fmt: skip
    return fig, long[["seed", *(column for column in long if column != "seed")]]


# ---------------------------------------------------------------------- bits by tensor


def tensor_table(ledger: Mapping[str, Any]) -> pd.DataFrame:
    """One row a tensor: name, kind, layer, grid, elements, stored_bytes, stored_bits and entropy_bits of an element.

    Stored bytes are the tensor's share of the file without its header, scales included.
    """
    table = pd.DataFrame(ledger["tensors"])
    table["stored_bytes"] = sum(stored_and_scales(table, ledger["fp16_bytes"], ledger["scales_bytes"]))
    for name in ("stored", "entropy"):
        table[f"{name}_bits"] = 8 * table[f"{name}_bytes"] / table["elements"]
    parts = table["name"].map(lambda name: re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+?)(?:\.weight)?", name))
    table["layer"] = pd.array([int(found[1]) if found and found[1] else None for found in parts], dtype="Int64")
    table["kind"] = [found[2] if found else name for found, name in zip(parts, table["name"], strict=True)]
    table.loc[table["shape"].map(len) < 2, "kind"] = VECTORS
    columns = ["name", "kind", "layer", "grid", "elements", "stored_bytes", "stored_bits", "entropy_bits"]
    return table[columns]


def _tensors(ledger: Mapping[str, Any]) -> Drawn:
    table = tensor_table(ledger)
    return _tensors_figure(table), table


@plots.styled
def _tensors_figure(table: pd.DataFrame) -> Figure:
    """One dot a tensor: bits of an element as stored, a row for each kind, area by bytes, colour by grid."""
    kinds = table.groupby("kind")["stored_bytes"].sum().sort_values(ascending=False)
    fig, ax = _figure(1.5 + 0.3 * len(kinds))
    places = {kind: place for place, kind in enumerate(kinds.index)}
    largest = max(float(table["stored_bytes"].max()), 1.0)
    for index, (grid, rows) in enumerate(table.groupby("grid", sort=True)):
        area = 14 + 150 * rows["stored_bytes"] / largest
        ax.scatter(
            rows["stored_bits"], rows["kind"].map(places), s=area, color=plots.colour_of(str(grid), index), alpha=0.65,
            linewidths=0, label=str(grid),
        )  # fmt: skip
    share = kinds / kinds.sum() if kinds.sum() else kinds * math.nan
    ax.set_yticks(range(len(kinds)), [f"{kind}  ({part:.1%})" for kind, part in share.items()])
    ax.invert_yaxis()
    ax.set(xlabel="bits per weight as stored, scales included")
    most = float(np.nanmax(table["stored_bits"])) if len(table) else 1.0
    ax.set_xlim(0, 1.06 * max(most, 1.0))
    fig = _with_legend(fig, ax)
    for handle in fig.legends[0].legend_handles if fig.legends else ():
        handle.set_sizes([40])
    return fig


# ---------------------------------------------------------------------- small helpers


def _tables(folder: Path, seeds: Mapping[int, Any], name: str, columns: Mapping[str, type]):
    """{seed: table} of the same CSV in each seed's figures; None if a seed has none; UserError for a broken one."""
    paths = {seed: folder / f"seed{seed}" / "figures" / f"{name}.csv" for seed in seeds}
    if not all(path.is_file() for path in paths.values()):
        return None
    found = {}
    for seed, path in paths.items():
        try:
            table = pd.read_csv(path)
            found[seed] = table.astype(dict(columns))[[*columns]]
        except (ValueError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"{path} is not the table that its notebook writes ({reason}); run it again") from None
        if found[seed].empty:
            return None
    return found


def _figure(height: float) -> tuple[Figure, Axes]:
    fig = plots.Chart(figsize=(7.0, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    return fig, fig.subplots()


def _bytes_axis(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _with_legend(fig: Figure, ax: Axes, columns: int = 5) -> Figure:
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)), columnspacing=1.2)
    return fig
