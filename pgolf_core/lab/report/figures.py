"""The report's figures, each with its numbers as CSV: what the seeds' checked files hold, drawn for people.

Two come from tables that the notebooks of a seed leave in its figures folder (06-position, 05-rate); a run without them
has a report without these figures.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pgolf_core.base.files import UserError
from pgolf_core.lab.compare.records import RECORD_DIR, RECORDS, load_published
from pgolf_core.lab.report.reading import SeedRun
from pgolf_core.lab.report.seeds import score_labels
from pgolf_core.lab.shared import plots
from pgolf_core.lab.shared.texts import FINEWEB_BYTES, FINEWEB_TRACK, SAME_BYTES
from pgolf_core.packing.ledger import Ledger
from pgolf_core.result import Result

OWN_PACKING = "this recipe"
LEDGER_PARTS = ("weights", "scales", "header", "code")
SKIPPED_SHARE = 0.08
"""The loss figure's axis is fitted to what follows this share of the steps."""
POSITION = ("06-position", {"score": str, "middle": float, "targets": float, "bpb": float, "share": float})
PACKINGS = ("05-rate", {"packing": str, "file_bytes": float, "bits": float, "bpb_lost": float})

VECTORS = "vectors and scalars"
Drawn = tuple[plots.Chart, pd.DataFrame]


def draw_figures(folder: Path, runs: Mapping[int, SeedRun], seeds_folder: Path) -> dict[str, Path]:
    """Write every figure that these seeds have numbers for into `folder`: {name: path of the PNG}, the CSV beside it.
    `seeds_folder` holds the seed<k>/figures of the notebooks."""
    results = {seed: run.result for seed, run in runs.items()}
    first = next(iter(runs.values()))
    curves = pd.concat([run.metrics for run in runs.values()], ignore_index=True)
    tensors = tensor_table(first.ledger)
    drawn = {
        "seeds": _strip(results),
        "curves": (plots.loss_curves(curves, skip_share=SKIPPED_SHARE), curves),
        "bytes": _bytes(results),
        "ledger": _ledger(runs, first.result.cap_bytes),
        "tensors": (_tensors_figure(tensors), tensors),
    }
    for name, draw, (file, columns) in (("position", _position, POSITION), ("packings", _packings, PACKINGS)):
        if (long := _tables(seeds_folder, runs, file, columns)) is not None:
            drawn[name] = draw(long)
    return {name: plots.save_figure(fig, folder, name, table) for name, (fig, table) in drawn.items()}


def _strip(results: Mapping[int, Result]) -> Drawn:
    first = next(iter(results.values()))
    labels = score_labels(first.adapted_bpb is not None)
    scores = pd.DataFrame(
        {label: [getattr(one, f"{score}_bpb") for one in results.values()] for score, label in labels.items()},
        index=pd.Index(list(results), name="seed"),
    )
    share = (first.raw_targets or first.val_targets) / first.val_targets
    in_part = {} if share >= 1 else {name: f"{name}\n(first {share:.0%})" for name in ("raw", "averaged")}
    return plots.seed_strip(scores.rename(columns=in_part), y_label="bits per byte"), scores


def _ledger(runs: Mapping[int, SeedRun], cap: int) -> Drawn:
    parts = {f"seed {seed}": {part: getattr(run.ledger, f"{part}_bytes") for part in LEDGER_PARTS}
             for seed, run in runs.items()}  # fmt: skip
    table = pd.DataFrame(list(parts.values()), index=pd.Index(list(runs), name="seed")).assign(cap=cap)
    return plots.ledger_bar(parts, cap), table


# ---------------------------------------------------------------------- bpb against bytes


def beside_published(result: Result) -> bool:
    """Whether the published seeds lie beside a run's: on their track, and scored on their text."""
    is_their_text = abs(result.val_bytes / FINEWEB_BYTES - 1) <= SAME_BYTES
    return result.track == FINEWEB_TRACK and is_their_text and RECORD_DIR.is_dir()


def _bytes(results: Mapping[int, Result]) -> Drawn:
    """Every seed's score by its bytes, against the cap; the published seeds too where they compare."""
    first = next(iter(results.values()))
    rows = [("this run", seed, result.total_bytes, result.sliding_bpb) for seed, result in results.items()]
    if beside_published(first):
        for record in map(load_published, RECORDS):
            rows += [(record.name, s.seed, s.total_bytes, s.sliding_bpb) for s in record.seeds
                     if s.total_bytes and s.sliding_bpb]  # fmt: skip
    table = pd.DataFrame(rows, columns=["run", "seed", "total_bytes", "bpb"]).assign(cap=first.cap_bytes)
    points = {}
    for index, (name, of_run) in enumerate(table[table["run"] != "this run"].groupby("run", sort=False)):
        points[str(name)] = (of_run["total_bytes"], of_run["bpb"], *plots.signs(index))
    for seed, result in results.items():
        points[f"seed {seed}"] = (result.total_bytes, result.sliding_bpb, *plots.signs(seed))
    return _points_figure(points, "bytes of file and code", "sliding score (bits per byte)", first.cap_bytes), table


def _packings(long: pd.DataFrame) -> Drawn:
    """What each packing of the averaged weights would have cost, mean over the seeds, by the bytes of its file."""
    long = long.dropna(subset=["file_bytes"])
    means = long.groupby("packing", sort=False)[["file_bytes", "bpb_lost"]].mean()
    points = {}
    for index, (name, *place) in enumerate(means.itertuples()):
        points[str(name)] = (*place, *(("*", "#222222") if name == OWN_PACKING else plots.signs(index)))
    return _points_figure(points, "bytes of the file, without code", "bpb lost by packing"), long


@plots.styled
def _points_figure(points: Mapping[str, tuple], x_label: str, y_label: str, cap: int = 0) -> plots.Chart:
    """Points over bytes, {label: (x, y, marker, colour)}; `cap` is a line, and 0 none."""
    fig, (ax,) = plots.figure()
    for label, (x, y, marker, colour) in points.items():
        size, order = (13, 3) if marker == "*" else (7, 2)
        ax.plot(x, y, marker, color=colour, markersize=size, mec="white", linestyle="", label=label, zorder=order)
    if cap:
        ax.axvline(cap, color="#222222", linewidth=1.6, label=f"cap {cap:,}")
    else:
        ax.axhline(0, color="#888888", linewidth=1, zorder=1)
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.margins(x=0.1, y=0.2)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    return _with_legend(fig, ax)


def _position(long: pd.DataFrame) -> Drawn:
    """The round-trip score by the tokens of context that a target has, one line a seed."""
    side_by_side = long[long["score"] == "round-trip"]
    lines = {f"seed {seed}": (rows["middle"], rows["bpb"]) for seed, rows in side_by_side.groupby("seed", sort=False)}
    fig = plots.curves({"bits per byte": lines}, x_label="tokens of context (log scale)", log_x=True, markers=True)
    return fig, long


# ---------------------------------------------------------------------- bits by tensor


def ledger_table(ledger: Ledger) -> pd.DataFrame:
    """A ledger's tensors with their bytes in the file: stored, of codes or halves, and scales. Tensors kept as fp16 are
    compressed together, and so are all scales: of both, each gets its part of the raw bytes."""
    table = pd.DataFrame(ledger.tensors)
    halves = table["grid"] == "fp16"
    of_halves = table["raw_bytes"] * ledger.fp16_bytes / max(1, table.loc[halves, "raw_bytes"].sum())
    scales = table["scales_raw_bytes"] * ledger.scales_bytes / max(1, table["scales_raw_bytes"].sum())
    return table.assign(stored=table["compressed_bytes"].astype(float).where(~halves, of_halves), scales=scales)


def tensor_table(ledger: Ledger) -> pd.DataFrame:
    """One row a tensor: name, kind, layer, grid, elements, stored_bytes (its share of the file without the header,
    scales included), stored_bits and entropy_bits of an element."""
    table = ledger_table(ledger)
    table["stored_bytes"] = table["stored"] + table["scales"]
    for name in ("stored", "entropy"):
        table[f"{name}_bits"] = 8 * table[f"{name}_bytes"] / table["elements"]
    table[["layer", "kind"]] = table["name"].str.extract(r"^(?:blocks\.(\d+)\.)?(.+?)(?:\.weight)?$")
    table["layer"] = pd.to_numeric(table["layer"]).astype("Int64")
    table.loc[table["shape"].map(len) < 2, "kind"] = VECTORS
    return table[["name", "kind", "layer", "grid", "elements", "stored_bytes", "stored_bits", "entropy_bits"]]


def sums_by_grid(ledger: Ledger) -> pd.DataFrame:
    """Of the tensors on each grid: how many, their values, bytes before compression and under an ideal coder."""
    sums = pd.DataFrame(ledger.tensors).assign(tensors=1).groupby("grid")
    return sums[["tensors", "elements", "raw_bytes", "entropy_bytes"]].sum()


def grid_rows(ledger: Ledger) -> list[list[str]]:
    """Tensors gathered by grid: count, values, bytes before compression, order-0 entropy in bytes and bits a value."""
    return [
        [str(row.Index), *(f"{value:,.0f}" for value in row[1:]), f"{8 * row.entropy_bytes / row.elements:.2f}"]
        for row in sums_by_grid(ledger).itertuples()
    ]


@plots.styled
def _tensors_figure(table: pd.DataFrame) -> plots.Chart:
    """One dot a tensor: bits of an element as stored, a row for each kind, area by bytes, colour by grid."""
    kinds = table.groupby("kind")["stored_bytes"].sum().sort_values(ascending=False)
    fig, (ax,) = plots.figure(size=(7.0, 1.5 + 0.3 * len(kinds)))
    places = {kind: place for place, kind in enumerate(kinds.index)}
    largest = max(float(table["stored_bytes"].max()), 1.0)
    for index, (grid, rows) in enumerate(table.groupby("grid", sort=True)):
        looks: dict[str, Any] = {"color": plots.colour_of(str(grid), index), "alpha": 0.65, "linewidths": 0}
        ax.scatter(rows["stored_bits"], rows["kind"].map(places), s=14 + 150 * rows["stored_bytes"] / largest, **looks)
        ax.scatter([], [], s=40, label=str(grid), **looks)
    share = kinds / max(kinds.sum(), 1)
    ax.set_yticks(range(len(kinds)), [f"{kind}  ({part:.1%})" for kind, part in share.items()])
    ax.invert_yaxis()
    ax.set(xlabel="bits per weight as stored, scales included")
    ax.set_xlim(0, 1.06 * max(float(table["stored_bits"].max()), 1.0))
    return _with_legend(fig, ax)


def _tables(folder: Path, seeds: Iterable[int], name: str, columns: Mapping[str, type]) -> pd.DataFrame | None:
    """The same CSV of each seed's figures as one table; None if a seed has none; UserError for a broken one."""
    found = []
    for seed in seeds:
        path = folder / f"seed{seed}" / "figures" / f"{name}.csv"
        if not path.is_file():
            return None
        try:
            table = pd.read_csv(path).astype(dict(columns))[[*columns]]
        except (ValueError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"{path} is not the table that its notebook writes ({reason}); run it again") from None
        table.insert(0, "seed", seed)
        found.append(table)
    return pd.concat(found, ignore_index=True) if all(map(len, found)) else None


def _with_legend(fig: plots.Chart, ax: Axes) -> plots.Chart:
    handles, labels = ax.get_legend_handles_labels()
    across = min(len(handles), 5 if max(map(len, labels)) < 15 else 3)
    fig.legend(handles, labels, loc="outside lower center", ncols=across, columnspacing=1.2)
    return fig
