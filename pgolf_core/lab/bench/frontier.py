"""Bytes against loss for every way of packing a run's weights: steps from gradients beside all that must lose to them.

    python -m pgolf_core.lab.bench.frontier runs/local_10min_1mb/local --out OUT [--targets N] [--methods A,B]

does it for every seed of a run and writes OUT/frontier.csv (a row for each seed, method and size), frontier.json (what
each goal of the budgeted grid comes to), and frontier.png. All bytes are of whole files, code apart.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.base.names import ARTIFACT, AVERAGED_WEIGHTS, GROUP_SENSITIVITY, HESSIANS, SENSITIVITY
from pgolf_core.base.parallel import ALONE
from pgolf_core.lab.compare.results import seed_folders
from pgolf_core.lab.data.dataset import open_dataset
from pgolf_core.lab.record.folder import recorded_recipe
from pgolf_core.lab.shared import plots
from pgolf_core.network import score as evaluate
from pgolf_core.network.grid import GRIDS, Grid, grid_names_for
from pgolf_core.network.model import network_with, parameter_shapes
from pgolf_core.packing.correction import Hessians, gather
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import GroupMeter, Groups, allocate_bits, groups_of
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe
from pgolf_core.text.shards import load_tokens
from pgolf_core.training.checkpoint import load_tensors

UNCAPPED_BYTES = 2**40
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Sizes at which methods with a budget are packed, relative to PR 315's int6 file."""
KL_TARGETS = 10_240
"""Over so many positions of the validation split the packed model's divergence from the unrounded one is taken: it
tells packings apart that differ by less than the loss of a few ten thousand targets wobbles."""
OURS = "steps by gradient"
CORRECTED = "corrected steps by gradient"
INT6 = "PR 315's int6"
GRID_METHODS = ("uniform bits", "clip search", INT6, "PR 332's rule", "per-row maximum")
AVERAGED = "steps by the averaged weights' gradient"
OTHER_STEPS = (AVERAGED, "steps of whole tensors", "one step", "random steps", "steps by magnitude")
Sensitivity = dict[str, Groups]

# ---------------------------------------------------------------------- sensitivities


def measured_sensitivity(
    settings: recipe.Recipe, weights: Mapping[str, Tensor], tokens: np.ndarray, steps: int, seed: int = 0
) -> Sensitivity:
    """Mean squared gradients of rows and columns at these weights, from as many tokens at random as `steps` take."""
    length = settings.data.seq_len
    network = network_with(settings.model, {name: w.clone() for name, w in weights.items()})
    named = dict(network.requires_grad_().named_parameters())
    meter, random = GroupMeter(named), np.random.default_rng(seed)
    for _ in range(steps):
        starts = random.integers(0, len(tokens) - length, settings.data.batch_tokens // length)
        spans = torch.from_numpy(np.stack([tokens[s : s + length + 1] for s in starts]).astype(np.int64))
        network.zero_grad()
        network(spans[:, :-1], spans[:, 1:]).backward()
        meter.add(named)
    return groups_of(meter.sums)


def measured_hessians(
    settings: recipe.Recipe, weights: Mapping[str, Tensor], tokens: np.ndarray, seed: int = 1
) -> Hessians:
    """What the matrices are multiplied by at these weights, over windows of training tokens at random."""
    length = settings.data.seq_len
    count = math.ceil(settings.quant.correction_tokens / length)
    starts = np.random.default_rng(seed).integers(0, len(tokens) - length, count)
    windows = torch.from_numpy(np.stack([tokens[s : s + length] for s in starts]).astype(np.int64))
    return gather(settings, weights, windows, torch.device("cpu"), ALONE)


def whole_tensors(known: Sensitivity) -> Sensitivity:
    """Each matrix's mean for all of its rows and columns."""
    return {name: Groups.even((len(g.rows), len(g.cols)), g.mean) for name, g in known.items()}


def equal(known: Sensitivity) -> Sensitivity:
    """All weights of all matrices alike: one step for everything."""
    return {name: Groups.even((len(g.rows), len(g.cols)), 1.0) for name, g in known.items()}


def shuffled(known: Sensitivity, seed: int) -> Sensitivity:
    """The same numbers given to other rows, columns and matrices."""
    random = np.random.default_rng(seed)
    names = list(known)
    means = random.permutation([known[name].mean for name in names])
    return {
        name: Groups(*(random.permutation(v) / v.mean() * mean for v in (known[name].rows, known[name].cols)))
        for name, mean in zip(names, means, strict=True)
    }


def by_magnitude(weights: Mapping[str, Tensor], known: Sensitivity) -> Sensitivity:
    """Steps in proportion to the size of the weights: the same relative error everywhere."""
    found = {}
    for name in known:
        squares = weights[name].double().square().clamp_min(1e-12)
        found[name] = Groups((1 / squares.mean(1)).numpy(), (1 / squares.mean(0)).numpy())
        scale = 1 / float(squares.mean())
        found[name] = Groups(*(v / v.mean() * scale for v in (found[name].rows, found[name].cols)))
    return found


def agreement(one: Sensitivity, other: Sensitivity) -> dict[str, float]:
    """Correlation of the logs of two runs of sensitivities: of matrices' means, and of rows and columns inside them."""
    names = [name for name in one if one[name].mean > 0 and other[name].mean > 0]

    def inner(axis: str) -> float:
        pairs = []
        for name in names:
            a, b = (np.asarray(getattr(s[name], axis), np.float64) for s in (one, other))
            kept = (a > 1e-3 * a.mean()) & (b > 1e-3 * b.mean())
            logs = [np.log(v[kept]) - np.log(v[kept]).mean() for v in (a, b)]
            pairs.append(np.stack(logs))
        return float(np.corrcoef(np.concatenate(pairs, axis=1))[0, 1])

    means = [[math.log(s[name].mean) for name in names] for s in (one, other)]
    return {"matrices": float(np.corrcoef(means)[0, 1]), "rows": inner("rows"), "columns": inner("cols")}


# ---------------------------------------------------------------------- packings


Packed = tuple[str, int, dict[str, Tensor], dict[str, Any]]
"""Method, bytes of its file, weights that come back, and what the packer says."""


def packings(
    settings: recipe.Recipe, weights: dict[str, Tensor], known: Sensitivity, other: Sensitivity, bits: dict[str, int],
    hessians: Hessians, shares: Sequence[float] = SHARES, only: Sequence[str] = (),
) -> Iterator[Packed]:  # fmt: skip
    """Every method (or `only` those): the grids as they come, and those with a budget at the same bytes as PR 315's
    int6 and below. Steps follow the sensitivities `known`, of AVERAGED those of `other`."""
    known_methods = [*GRID_METHODS, OURS, CORRECTED, *OTHER_STEPS]
    for label in only:
        if label not in known_methods:
            raise UserError(f"--methods: '{label}' is none; choose from {', '.join(known_methods)}")
    only = only or known_methods
    quant = dataclasses.replace(settings.quant, kind="grid", allocation="fixed", exceptions=(), target_bytes=0)
    grids = {
        "uniform bits": [f"int{b}_row_clip" for b in (5, 6, 7, 8)],
        "clip search": ["int6_clip_search"],
        INT6: ["int6_row"],
    }
    with tempfile.TemporaryDirectory(prefix="pgolf-") as folder:
        path = Path(folder) / ARTIFACT

        def real(label: str, one: recipe.Quant, **options: Any) -> Packed:
            ledger = pack({**weights}, settings.model, one, path, code_bytes=0, **options)
            return label, ledger.file_bytes, unpack(path)[1], (ledger.steps or {}) | _plain_told(ledger.correction)

        for label, names in grids.items():
            for name in names if label in only or label == INT6 else ():
                one = dataclasses.replace(quant, attention=name, mlp=name, other=name, tok_emb="int8_row_clip")
                found = real(label, one, cap_bytes=UNCAPPED_BYTES)
                if label in only:
                    yield found
        int6_bytes = found[1]
        by_gradient = dataclasses.replace(quant, allocation="gradient", tok_emb="int8_row_clip", other="int8_row_clip")
        if "PR 332's rule" in only:
            yield real("PR 332's rule", by_gradient, bits=bits, cap_bytes=UNCAPPED_BYTES)
        name = "int5_row_nofloor"
        by_maximum = dataclasses.replace(quant, attention=name, mlp=name, other=name, tok_emb="int8_row_clip")
        for levels in (4, 5, 6, 7, 8) if "per-row maximum" in only else ():
            with row_maximum_as(name, levels):
                found = real("per-row maximum", by_maximum, cap_bytes=UNCAPPED_BYTES)
            yield found
        methods = {
            OURS: known,
            CORRECTED: known,
            AVERAGED: other,
            "steps of whole tensors": whole_tensors(known),
            "one step": equal(known),
            "random steps": shuffled(known, 0),
            "steps by magnitude": by_magnitude(weights, known),
        }
        for label, sensitivity in methods.items():
            for share in shares if label in only else ():
                size, mode = round(share * int6_bytes), "hessian" if label == CORRECTED else "off"
                one = dataclasses.replace(quant, kind="steps", target_bytes=size, correction=mode)
                yield real(label, one, sensitivity=sensitivity, hessians=hessians, cap_bytes=size + 1)


@contextlib.contextmanager
def row_maximum_as(name: str, bits: int) -> Iterator[None]:
    """While inside, the grid `name` has `bits` a weight and reaches each row's maximum, without a floor.

    No recipe can name such a grid, so it stands under another's name while its file is made and read.
    """
    levels, kept = 2 ** (bits - 1) - 1, GRIDS[name]
    GRIDS[name] = Grid(name, -levels - 1, levels, levels, 1e-12)
    try:
        yield
    finally:
        GRIDS[name] = kept


def _plain_told(correction: Mapping[str, Any] | None) -> dict[str, Any]:
    """A correction's numbers for a table."""
    told = correction or {}
    return {key: len(told[key]) if key in ("raised", "plain") else told[key] for key in told}


def seed_frontier(
    folder: Path, settings: recipe.Recipe, cache: Path | None, targets: int, shares: Sequence[float] = SHARES,
    only: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """Rows (method, bytes, bpb lost) of one seed, and its own facts: unrounded bpb, agreement of gradients."""
    dataset = open_dataset(settings.data.dataset, cache)
    token_bytes = dataset.tokenizer().bytes
    validation = load_tokens(tuple(dataset.val_paths), settings.model.vocab_size)
    training = load_tokens(tuple(dataset.train_paths[:1]), settings.model.vocab_size)
    averaged, _ = load_tensors(folder / AVERAGED_WEIGHTS)
    shapes = parameter_shapes(settings.model)
    matrices = [name for name, grid in grid_names_for(shapes, settings.quant).items() if grid != "fp16"]

    def score_of(state: dict[str, Tensor]) -> evaluate.Score:
        model = network_with(settings.model, state)
        window, batch = settings.eval.seq_len, settings.eval.batch_seqs
        return evaluate.score(model, validation, token_bytes, window, window, batch, max_targets=targets)

    sums, gathered = load_tensors(folder / GROUP_SENSITIVITY)
    live = groups_of(sums)
    wanted = not only or AVERAGED in only
    other = measured_sensitivity(settings, averaged, training, gathered["steps"]) if wanted else live
    known, other = ({name: s[name] for name in matrices} for s in (live, other))
    bits = allocate_bits(read_json(folder / SENSITIVITY)["mean_squared_gradient"])
    at_end = folder / HESSIANS
    if at_end.exists():
        means, about = load_tensors(at_end)
        hessians = Hessians(means, about["tokens"])
    else:
        hessians = measured_hessians(settings, averaged, training)
    unrounded, rows = score_of(dict(averaged)), []
    nats_per_bpb = math.log(2) * unrounded.bytes / unrounded.tokens
    of_unrounded = log_probabilities(settings, averaged, validation)
    for method, size, state, told in packings(settings, averaged, known, other, bits, hessians, shares, only):
        lost, of_state = score_of(state).bpb - unrounded.bpb, log_probabilities(settings, state, validation)
        kl = float((of_unrounded.exp() * (of_unrounded - of_state)).sum(-1).mean(dtype=torch.float64)) / nats_per_bpb
        rows.append({"method": method, "file_bytes": size, "bpb_lost": lost, "kl_bpb": kl, **told})
        print(f"{folder.name}  {method:26s} {size:>10,} bytes  {lost:+.5f} bpb  KL {kl:.5f}", flush=True)
    return rows, {"unrounded_bpb": unrounded.bpb, "agreement": agreement(known, other)}


@torch.no_grad()
def log_probabilities(settings: recipe.Recipe, state: Mapping[str, Tensor], tokens: np.ndarray) -> Tensor:
    """float32 [KL_TARGETS or fewer, vocabulary] on the first tokens, windows side by side."""
    model, length = network_with(settings.model, dict(state)).eval(), settings.eval.seq_len
    count = max(min(KL_TARGETS, len(tokens)) // length, 1)
    windows = torch.from_numpy(tokens[: count * length].astype(np.int64)).reshape(count, -1)
    return torch.cat([model.logits(part).log_softmax(-1).flatten(0, 1) for part in windows.split(4)])


# ---------------------------------------------------------------------- what it comes to


def bytes_at_loss(sizes: Sequence[float], losses: Sequence[float], lost: float) -> float:
    """Bytes at which a method loses `lost`, interpolated in the log of the loss; NaN outside what was measured.

    Of measured sizes the smallest that loses no more, and the next below it, decide; scores wobble around zero.
    """
    order = np.argsort(sizes)[::-1]
    sizes, logs = np.asarray(sizes, float)[order], np.log(np.maximum(np.asarray(losses, float)[order], 1e-6))
    wanted = math.log(max(lost, 1e-6))
    over = np.flatnonzero(logs > wanted)
    if not len(over) or over[0] == 0:
        return math.nan
    after = over[0]
    part = (wanted - logs[after - 1]) / (logs[after] - logs[after - 1])
    return float(sizes[after - 1] + part * (sizes[after] - sizes[after - 1]))


def savings(
    table: pd.DataFrame, by: str = OURS, over: Callable[[str], bool] = lambda method: "step" not in method
) -> pd.DataFrame:
    """For every seed and file of methods `over` (those without steps): the bytes that `by` takes at its loss, and the
    share saved."""
    rows = []
    for seed, one in table.groupby("seed"):
        own = one[one["method"] == by]
        for row in one[one["method"].map(over)].itertuples():
            needed = bytes_at_loss(own["file_bytes"], own["bpb_lost"], row.bpb_lost) if len(own) else math.nan
            rows.append({
                "seed": seed, "method": row.method, "target": row.target, "file_bytes": row.file_bytes,
                "bpb_lost": row.bpb_lost, "bytes_by_gradient": needed, "saved": 1 - needed / row.file_bytes,
            })  # fmt: skip
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame) -> Figure:
    """Bytes of the file against bpb lost (log), means over seeds, a line for each method."""
    means = table.groupby(["method", "target"], sort=False)[["file_bytes", "bpb_lost"]].mean().reset_index()
    lines = {
        method: (rows["file_bytes"] / 1000, rows["bpb_lost"].clip(lower=1e-5))
        for method, rows in means.groupby("method", sort=False)
    }
    return plots.curves(
        {"bpb lost by packing (log scale)": lines}, x_label="file (thousand bytes)", markers=True, log_y=True,
        title=f"Bytes against loss, mean of {table['seed'].nunique()} seeds (steps solid, grids dashed)",
        dashed={method for method in lines if "step" not in method}, legend_outside=True,
    )  # fmt: skip


def run_frontier(
    run: Path, out: Path, cache: Path | None = None, targets: int = 0, shares: Sequence[float] = SHARES,
    only: Sequence[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """All seeds of one run; writes frontier.csv, frontier.json and frontier.png into `out`."""
    settings, rows, facts = recorded_recipe(run), [], {}
    folders = seed_folders(run)
    if not folders:
        raise UserError(f"{run} holds no seed; give the folder of a finished run, as runs/local_10min_1mb/local")
    for seed, folder in folders.items():
        found, facts[str(seed)] = seed_frontier(folder, settings, cache, targets, shares, only)
        count: dict[str, int] = {}
        for row in found:
            count[row["method"]] = count.get(row["method"], 0) + 1
            rows.append({"seed": seed, **row, "target": count[row["method"]]})
    table = pd.DataFrame(rows)
    fig = figure(table)
    plots.save_figure(fig, out, "frontier", table)
    saved = savings(table)
    by_correction = savings(table, CORRECTED, lambda method: method == OURS)
    write_json(out / "frontier.json", {
        "run": run.name, "targets": targets, "seeds": facts, "savings": _plain(saved.to_dict("records")),
        "savings_by_correction": _plain(by_correction.to_dict("records")),
    })  # fmt: skip
    for found in (saved, by_correction):
        if len(found):
            means = found.groupby(["method", "target"], sort=False)[["file_bytes", "bpb_lost", "saved"]].mean()
            print(means.to_string())
    return table


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without NaN, which JSON has not."""
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(
        prog="python -m pgolf_core.lab.bench.frontier", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="folder of a run, with seed folders in it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table and the figure")
    parser.add_argument("--targets", type=int, default=0, help="validation targets to score; 0 is all")
    parser.add_argument("--shares", default=SHARES, help="sizes over int6's, as 0.5,0.7 (default: %(default)s)",
                        type=lambda text: tuple(map(float, text.split(","))))  # fmt: skip
    parser.add_argument("--methods", default=(), help="only these methods, as 'one step,steps by gradient'",
                        type=lambda text: tuple(part.strip() for part in text.split(",")))  # fmt: skip
    parser.add_argument("--data-cache", type=Path, default=None, help="where prepared datasets lie")
    given = parser.parse_args(arguments)
    try:
        run_frontier(given.run, given.out, given.data_cache, given.targets, given.shares, given.methods)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
