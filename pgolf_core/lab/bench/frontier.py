"""Bytes against loss for every way of packing a run's weights: steps from gradients beside all that must lose to them.

    python -m pgolf_core.lab.bench.frontier runs/local_10min_1mb/local --out OUT [--targets N] [--methods A,B]

does it for every seed of a run and writes OUT/frontier.csv (a row for each seed, method and size), frontier.json (what
each goal of the budgeted grid comes to), and frontier.png. All bytes are of whole files, code apart.
"""

import argparse
import dataclasses
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pgolf_core.base.bits import allocate_bits
from pgolf_core.base.files import UserError, explain_os_errors, read_json, write_json
from pgolf_core.base.names import ARTIFACT, AVERAGED_WEIGHTS, GROUP_SENSITIVITY, HESSIANS, SENSITIVITY
from pgolf_core.base.parallel import ALONE
from pgolf_core.lab.compare.results import recorded_recipe, seed_folders
from pgolf_core.lab.data.dataset import open_dataset
from pgolf_core.lab.record.stages import hessians_in
from pgolf_core.lab.shared.plots import Chart, curves, save_figure
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.lab.shared.usage import count
from pgolf_core.network.choice import grid_names_for
from pgolf_core.network.grid import GRIDS, Grid
from pgolf_core.network.model import network_with, parameter_shapes
from pgolf_core.network.score import score
from pgolf_core.packing.allocation import even_groups
from pgolf_core.packing.correction import Gathering
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import GroupMeter, Groups, groups_of
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes.recipe import Quant, Recipe
from pgolf_core.text.shards import TokenStream, load_tokens
from pgolf_core.text.tokenizer import need_bos
from pgolf_core.training.checkpoint import load_tensors

UNCAPPED_BYTES = 2**40
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Sizes at which methods with a budget are packed, relative to PR 315's int6 file."""
KL_TARGETS = 10_240
"""Over so many positions of the validation split the packed model's divergence from the unrounded one is taken: it
tells packings apart that differ by less than the loss of a few ten thousand targets wobbles."""
INT6, BY_RULE, BY_MAXIMUM = "PR 315's int6", "PR 332's rule", "per-row maximum"
OURS, CORRECTED = "steps by gradient", "corrected steps by gradient"
AVERAGED = "steps by the averaged weights' gradient"
RECORD = "PR 1855's packing"
_RECORD_QUANT: dict[str, Any] = {
    "attention": "int6_sigma", "mlp": "int6_sigma", "tok_emb": "int7_sigma", "other": "int6_sigma",
    "mlp_clip_sigmas": 11.5, "attention_clip_sigmas": 13.0, "embed_clip_sigmas": 14.0, "correction": "hessian",
    "correction_order": "activation", "low_rank": 4, "gates": "int8_row", "grouping": "similarity",
    "compressor": "brotli",
}  # fmt: skip
_PLAIN: dict[str, Any] = {"correction": "off", "low_rank": 0, "gates": "float16", "grouping": "off"}
"""What a run's own recipe may ask for beside its grids, and the methods here do only by name."""
RECORDS: dict[str, dict[str, Any]] = {
    RECORD: _RECORD_QUANT,
    f"{RECORD} without LQER": {**_RECORD_QUANT, "low_rank": 0},
    f"{RECORD} ungrouped": {**_RECORD_QUANT, "grouping": "off"},
    f"{RECORD} by zstd": {**_RECORD_QUANT, "compressor": "zstd"},
}
"""With the compressors that we have, and where what the head reads was gathered, its Hessian."""
METHODS = (
    "uniform bits", "clip search", INT6, BY_RULE, BY_MAXIMUM, OURS, CORRECTED, AVERAGED, "steps of whole tensors",
    "one step", "random steps", "steps by magnitude", *RECORDS,
)  # fmt: skip
Sensitivity = dict[str, Groups]
Packed = tuple[dict[str, Any], dict[str, Tensor]]
"""(method, file_bytes and what the packer says of a file; the weights that come back from it)."""

# ---------------------------------------------------------------------- sensitivities


def measured_sensitivity(recipe: Recipe, weights: Mapping[str, Tensor], stream: TokenStream, steps: int) -> Sensitivity:
    """Mean squared gradients of rows and columns at these weights, from as many tokens at random as `steps` take."""
    network = network_with(recipe.model, {name: w.clone() for name, w in weights.items()})
    named = dict(network.requires_grad_().named_parameters())
    meter, length = GroupMeter(named), recipe.data.seq_len
    for _ in range(steps):
        spans = torch.from_numpy(stream.take_shuffled(recipe.data.batch_tokens // length, length).astype(np.int64))
        network.zero_grad()
        network(spans[:, :-1], spans[:, 1:]).backward()
        meter.add(named)
    return groups_of(meter.sums)


def even(known: Sensitivity, value: float | None = None) -> Sensitivity:
    """Every weight of a matrix alike: `value` in all matrices (one step for everything), or each matrix's own mean."""
    return {n: even_groups((len(g.rows), len(g.cols)), value or g.mean) for n, g in known.items()}


def shuffled(known: Sensitivity, seed: int) -> Sensitivity:
    """The same numbers given to other rows, columns and matrices."""
    random = np.random.default_rng(seed)
    means = random.permutation([g.mean for g in known.values()])
    return {
        name: Groups(*(random.permutation(v) / v.mean() * mean for v in (g.rows, g.cols)))
        for (name, g), mean in zip(known.items(), means, strict=True)
    }


def by_magnitude(weights: Mapping[str, Tensor], known: Sensitivity) -> Sensitivity:
    """Steps in proportion to the size of the weights: the same relative error everywhere."""
    squares = {name: weights[name].double().square().clamp_min(1e-12) for name in known}
    inverse = {name: [(1 / s.mean(axis)).numpy() for axis in (1, 0)] for name, s in squares.items()}
    return {name: Groups(*(v / v.mean() / float(squares[name].mean()) for v in inverse[name])) for name in known}


def agreement(one: Sensitivity, other: Sensitivity) -> dict[str, float]:
    """Correlation of the logs of two runs of sensitivities: of matrices' means, and of rows and columns inside them."""
    names = [name for name in one if one[name].mean > 0 and other[name].mean > 0]

    def inner(axis: str) -> np.ndarray:
        found = []
        for name in names:
            pair = np.array([getattr(s[name], axis) for s in (one, other)], np.float64)
            logs = np.log(pair[:, (pair > 1e-3 * pair.mean(1, keepdims=True)).all(0)])
            found.append(logs - logs.mean(1, keepdims=True))
        return np.concatenate(found, axis=1)

    means = np.log([[s[name].mean for name in names] for s in (one, other)])
    parts = {"matrices": means, "rows": inner("rows"), "columns": inner("cols")}
    return {part: float(np.corrcoef(pairs)[0, 1]) for part, pairs in parts.items()}


# ---------------------------------------------------------------------- packings


class Packer:
    """Makes the files of one seed, and what its sensitivities say."""

    def __init__(self, recipe: Recipe, folder: Path, stream: TokenStream, methods: Sequence[str]):
        self.recipe, self.methods = recipe, methods
        self.weights, _ = load_tensors(folder / AVERAGED_WEIGHTS)
        sums, gathered = load_tensors(folder / GROUP_SENSITIVITY)
        live = other = groups_of(sums)
        if AVERAGED in methods:
            other = measured_sensitivity(recipe, self.weights, stream, gathered["steps"])
        grids = grid_names_for(parameter_shapes(recipe.model), recipe.quant)
        known, other = ({name: s[name] for name, grid in grids.items() if grid != "fp16"} for s in (live, other))
        self.agreement = agreement(known, other)
        self.bits = allocate_bits(read_json(folder / SENSITIVITY)["mean_squared_gradient"])
        with_head = dataclasses.replace(recipe, quant=dataclasses.replace(recipe.quant, correct_tok_emb=True))
        gathering = Gathering(with_head, torch.device("cpu"), ALONE)
        self.hessians = (
            hessians_in(folder) if (folder / HESSIANS).exists() else gathering.gather(self.weights, stream, math.inf)
        )
        self.sensitivities = {
            OURS: known, CORRECTED: known, AVERAGED: other, "steps of whole tensors": even(known),
            "one step": even(known, 1.0), "random steps": shuffled(known, 0),
            "steps by magnitude": by_magnitude(self.weights, known),
        }  # fmt: skip

    def files(self, shares: Sequence[float]) -> Iterator[Packed]:
        """The grids as they come, and the methods with a budget at these shares of the bytes of INT6."""
        quant = dataclasses.replace(
            self.recipe.quant, kind="grid", allocation="fixed", exceptions=(), target_bytes=0, **_PLAIN
        )

        def on_grid(name: str) -> Quant:
            return dataclasses.replace(quant, attention=name, mlp=name, other=name, tok_emb="int8_row_clip")

        int6 = self._file(INT6, on_grid("int6_row"))
        if INT6 in self.methods:
            yield int6
        rule = dataclasses.replace(quant, allocation="gradient", tok_emb="int8_row_clip", other="int8_row_clip")
        others: list[tuple[str, Quant, Grid | None]] = [
            *(("uniform bits", on_grid(f"int{bits}_row_clip"), None) for bits in (5, 6, 7, 8)),
            ("clip search", on_grid("int6_clip_search"), None), (BY_RULE, rule, None),
        ]  # fmt: skip
        for levels in (7, 15, 31, 63, 127):  # 4 to 8 bits that reach each row's maximum, without a floor
            grid = Grid("int5_row_nofloor", -levels - 1, levels, levels, 1e-12)
            others.append((BY_MAXIMUM, on_grid(grid.name), grid))
        for one in others:
            if one[0] in self.methods:
                yield self._file(*one)
        head = self.hessians.of("tok_emb.weight") is not None
        for method, changed in RECORDS.items():
            if method in self.methods:
                published = dataclasses.replace(quant, correct_tok_emb=head, **changed)
                yield self._file(method, published, hessians=self.hessians)
        for method, sensitivity in self.sensitivities.items():
            for share in shares if method in self.methods else ():
                size, mode = round(share * int6[0]["file_bytes"]), "hessian" if method == CORRECTED else "off"
                ours: dict[str, Any] = {"kind": "steps", "compressor": "zstd", "target_bytes": size}
                steps = dataclasses.replace(quant, correction=mode, **ours)
                given: dict[str, Any] = {"sensitivity": sensitivity, "hessians": self.hessians}
                yield self._file(method, steps, cap_bytes=size + 1, **given)

    def _file(
        self, method: str, quant: Quant, grid: Grid | None = None, cap_bytes: int = UNCAPPED_BYTES, **options: Any
    ) -> Packed:
        """A `grid` that no recipe can name stands under another's name while its file is made and read."""
        stand_in = {grid.name: grid} if grid else {}
        with tempfile.TemporaryDirectory(prefix="pgolf-") as folder, mock.patch.dict(GRIDS, stand_in):
            path, bits = Path(folder) / ARTIFACT, self.bits if quant.allocation == "gradient" else None
            options |= {"bits": bits, "code_bytes": 0, "cap_bytes": cap_bytes}
            ledger = pack({**self.weights}, self.recipe.model, quant, path, **options)
            told = {key: len(v) if key in ("raised", "plain") else v for key, v in (ledger.correction or {}).items()}
            return {"method": method, "file_bytes": ledger.file_bytes, **(ledger.steps or {}), **told}, unpack(path)[1]


@torch.no_grad()
def log_probabilities(recipe: Recipe, state: Mapping[str, Tensor], tokens: np.ndarray) -> Tensor:
    """float32 [KL_TARGETS or fewer, vocabulary] on the first tokens, windows side by side."""
    model, length = network_with(recipe.model, state).eval(), recipe.eval.seq_len
    count = max(min(KL_TARGETS, len(tokens)) // length, 1)
    windows = torch.from_numpy(tokens[: count * length].astype(np.int64)).reshape(count, -1)
    return torch.cat([model.logits(part).log_softmax(-1).flatten(0, 1) for part in windows.split(4)])


def seed_frontier(
    folder: Path, recipe: Recipe, cache: Path | None, targets: int, shares: Sequence[float], methods: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A row for each file (method, target, bytes, bpb lost) of one seed; its unrounded bpb, agreement of gradients."""
    dataset, window = open_dataset(recipe.data.dataset, cache), recipe.eval.seq_len
    need_bos(recipe, dataset.tokenizer().bos_id)
    validation, token_bytes = load_tokens(tuple(dataset.val_paths), recipe.model.vocab_size), dataset.token_bytes()
    packer = Packer(recipe, folder, TokenStream(dataset.train_paths[:1]), methods)

    def judged(state: Mapping[str, Tensor]):
        model, how = network_with(recipe.model, state), (window, window, recipe.eval.batch_seqs)
        found = score(model, validation, token_bytes, *how, max_targets=targets)
        return found, log_probabilities(recipe, state, validation)

    unrounded, wanted = judged(packer.weights)
    nats_per_bpb, rows = math.log(2) * unrounded.bytes / unrounded.tokens, []
    for row, state in packer.files(shares):
        found, got = judged(state)
        kl = float((wanted.exp() * (wanted - got)).sum(-1).mean(dtype=torch.float64)) / nats_per_bpb
        rows.append({**row, "bpb_lost": found.bpb - unrounded.bpb, "kl_bpb": kl})
        print("{method:40s}{file_bytes:>10,} bytes {bpb_lost:+.5f} bpb KL {kl_bpb:.5f}".format(**rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    table.insert(1, "target", table.groupby("method").cumcount() + 1)
    return table, {"unrounded_bpb": unrounded.bpb, "agreement": packer.agreement}


# ---------------------------------------------------------------------- what it comes to


def bytes_at_loss(sizes: Sequence[float], losses: Sequence[float], lost: float) -> float:
    """Bytes at which a method loses `lost`, interpolated in the log of the loss; NaN outside what was measured.

    Of measured sizes the smallest that loses no more, and the next below it, decide; scores wobble around zero.
    """
    order = np.argsort(sizes)[::-1]
    falling, logs = np.asarray(sizes, float)[order], np.log(np.maximum(np.asarray(losses, float)[order], 1e-6))
    wanted = math.log(max(lost, 1e-6))
    over = np.flatnonzero(logs > wanted)
    if not len(over) or over[0] == 0:
        return math.nan
    pair = slice(over[0] - 1, over[0] + 1)
    return float(np.interp(wanted, logs[pair], falling[pair]))


def savings(
    table: pd.DataFrame, by: str = OURS, over: Callable[[str], bool] = lambda method: "step" not in method
) -> pd.DataFrame:
    """The files of methods `over` (those without steps), each with the bytes that `by` takes at its loss on the same
    seed, and the share saved; NaN where `by` was not tried."""
    found = table.loc[table["method"].map(over), ["seed", "method", "target", "file_bytes", "bpb_lost"]]
    own = {seed: one.set_index("file_bytes")["bpb_lost"] for seed, one in table[table["method"] == by].groupby("seed")}
    pairs = zip(found["seed"], found["bpb_lost"], strict=True)
    needed = [bytes_at_loss(own[seed].index, own[seed], lost) if seed in own else math.nan for seed, lost in pairs]
    return found.assign(bytes_by_gradient=needed, saved=1 - np.array(needed, float) / found["file_bytes"])


def figure(table: pd.DataFrame) -> Chart:
    """Bytes of the file against bpb lost (log), means over seeds, a line for each method."""
    means = table.groupby(["method", "target"], sort=False)[["file_bytes", "bpb_lost"]].mean().reset_index()
    lines = {
        str(method): (rows["file_bytes"] / 1000, rows["bpb_lost"].clip(lower=1e-5))
        for method, rows in means.groupby("method", sort=False)
    }
    return curves(
        {"bpb lost by packing (log scale)": lines}, x_label="file (thousand bytes)", markers=True, log_y=True,
        title=f"Bytes against loss, mean of {so_many(table['seed'].nunique(), 'seed')} (steps solid, grids dashed)",
        dashed={method for method in lines if "step" not in method}, legend_outside=True,
    )  # fmt: skip


def _shares(text: str) -> list[float]:
    if not re.fullmatch(r"(\d*\.?\d+(,|$))+", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of sizes over int6's, as 0.5,0.7")
    return [float(part) for part in text.split(",")]


def _methods(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",")]
    unknown = [method for method in found if method not in METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none; choose from {', '.join(METHODS)}")
    return found


def main() -> None:
    """All seeds of one run, by the command line above."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m pgolf_core.lab.bench.frontier", description=about)
    option = parser.add_argument
    option("run", type=Path, help="folder of a run, with seed folders in it")
    option("--out", type=Path, required=True, help="folder for the table and the figure")
    option("--targets", type=count, default=0, help="validation targets to score (default: all)")
    option("--shares", type=_shares, default=SHARES, help="sizes over int6's, as 0.5,0.7 (default: %(default)s)")
    option("--methods", type=_methods, default=METHODS, help="only these, as 'one step,steps by gradient'")
    option("--data-cache", type=Path, help="where prepared datasets lie")
    options = parser.parse_args()
    run, out = options.run, options.out
    recipe, tables, facts = recorded_recipe(run), {}, {}
    with explain_os_errors(f"cannot write to {out}"):
        out.mkdir(parents=True, exist_ok=True)  # told now, and not after hours
    how = (recipe, options.data_cache, options.targets, options.shares, options.methods)
    for seed, folder in seed_folders(run).items():
        print(folder.name, flush=True)
        tables[seed], facts[str(seed)] = seed_frontier(folder, *how)
    if not tables:
        raise UserError(f"{run} holds no seed; give the folder of a finished run, as runs/local_10min_1mb/local")
    table = pd.concat(tables, names=["seed"]).reset_index("seed").reset_index(drop=True)
    save_figure(figure(table), out, "frontier", table)
    saved = {"savings": savings(table), "savings_by_correction": savings(table, CORRECTED, OURS.__eq__)}
    saved["savings_corrected"] = savings(table, CORRECTED)
    plain = {name: one.astype(object).where(one.notna(), None).to_dict("records") for name, one in saved.items()}
    write_json(out / "frontier.json", {"run": run.name, "targets": options.targets, "seeds": facts, **plain})
    for one in saved.values():
        print(one.groupby(["method", "target"], sort=False)[["file_bytes", "bpb_lost", "saved"]].mean().to_string())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
