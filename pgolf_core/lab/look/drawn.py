"""What the controls of notebooks 02, 05 and 06 draw: their values in, a figure, its numbers and a sentence out.

Each class is made once in a notebook, holds what is costly, and draws in well under a second. Values that make no
figure are UserErrors. Nothing here knows of widgets: those are in `pgolf_core/lab/look/controls.py`.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator, NullFormatter

from pgolf_core.base.files import UserError
from pgolf_core.base.names import AVERAGED_WEIGHTS
from pgolf_core.lab.compare.results import recorded_recipe
from pgolf_core.lab.look import n02_network, n06_scoring
from pgolf_core.lab.look.beside_records import OWN
from pgolf_core.lab.look.n01_data import entropy_bits, visible_piece
from pgolf_core.lab.look.n05_packing import NO_FLOOR
from pgolf_core.lab.record import stages
from pgolf_core.lab.record.folder import Run
from pgolf_core.lab.shared import plots
from pgolf_core.network.grid import GRIDS, Grid, dequantise, quantise_tensor
from pgolf_core.network.model import GPT, build_model, network_with
from pgolf_core.network.score import Score, plan_windows
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.tokenizer import check_vocab
from pgolf_core.training.checkpoint import load_tensors


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One drawing."""

    figure: plots.Chart
    table: pd.DataFrame
    """The numbers in the figure."""
    said: str
    """One sentence or two that give what the figure cannot: counts, costs."""


class Drawing:
    """A figure that depends on a few values, the arguments of its `draw`."""

    name: str
    """Of the figure's file."""
    labels: Mapping[str, str] = {}
    """What an argument is called, where not by its own name."""
    options: dict[str, Sequence[Any]]
    """{argument: what it may be}: a range, words, numbers or (word, number)."""
    default: dict[str, Any]
    """{argument: what is drawn first}."""

    def fitting(self, *arguments: Any, **values: Any) -> dict[str, Sequence[Any]]:
        """What each argument may be beside the others' values; one that is left out changes nothing."""
        return self.options

    def draw(self, *arguments: Any, **values: Any) -> Drawn:
        """The figure of these values; UserError if they make none."""
        raise NotImplementedError


class Heads(Drawing):
    """Attention of one head on the first validation tokens: of any recipe before training, of any seed trained here."""

    name = "02-head"
    START, ALIKE = "at the start", "queries = keys"
    LENGTH, SHOWN = 256, 32
    """Tokens that are read, and tokens whose weights are drawn one by one."""

    def __init__(self, run: Run, model: GPT):
        """`model` is the run's own network before training; trained weights are those in the run's folder of runs."""
        self._run, self._own = run, model
        self._tokenizer = stages.dataset_tokenizer(run)
        tokens = stages.validation_tokens(run)[: self.LENGTH].astype(np.int64)
        self._ids = torch.from_numpy(tokens)[None]
        self._pieces = [visible_piece(self._tokenizer.piece(int(token))) for token in tokens[: self.SHOWN]]
        self._network = functools.lru_cache(maxsize=2)(self._make_network)
        self._maps = functools.lru_cache(maxsize=64)(self._make_maps)
        self.options = self.fitting(OWN)
        self.default = {"recipe": OWN, "weights": self.START, "layer": 0, "head": 0}

    def fitting(self, recipe: str, *arguments: Any, **values: Any) -> dict[str, Sequence[Any]]:
        """Two untrained networks, every trained seed of a recipe, its layers and heads."""
        settings, folder = self._recipe(recipe)
        seeds = [path.parent.name[4:] for path in folder.glob(f"seed*/{AVERAGED_WEIGHTS}")]
        trained = [f"seed {seed}, trained" for seed in sorted(int(seed) for seed in seeds if seed.isdecimal())]
        return {"recipe": [OWN, *available_recipes()], "weights": [self.START, self.ALIKE, *trained],
                "layer": range(settings.model.num_layers), "head": range(settings.model.num_heads)}  # fmt: skip

    def draw(self, recipe: str, weights: str, layer: int, head: int) -> Drawn:
        """That head's weights on the first tokens one by one, and over all of them by distance."""
        for what, number in (("layer", layer), ("head", head)):
            if number not in (known := self.fitting(recipe)[what]):
                raise UserError(f"{what} {number} is not in {recipe}: it has {what}s 0 to {known[-1]}")
        maps = self._maps(recipe, weights, layer)[head]
        table, found = _by_distance(maps), n02_network.attention_statistics(maps[None, None])
        said = (
            f"{recipe}, {weights}: in the second half of {len(maps)} tokens layer {layer}, head {head} spreads over "
            f"{found['effective positions']:.1f} of {0.75 * len(maps):.0f} positions, {found['weight on itself']:.1%} "
            f"on itself, {found['weight on the one before']:.1%} on the token before, and looks back "
            f"{found['tokens looked back']:.1f} tokens."
        )
        shown, title = maps[: self.SHOWN, : self.SHOWN].numpy(), f"{recipe}, {weights}: layer {layer}, head {head}"
        return Drawn(_head_figure(title, shown, self._pieces, table), table, said)

    def _recipe(self, name: str) -> tuple[Recipe, Path]:
        """A recipe and the folder of its seeds."""
        settings, own = self._run.recipe if name == OWN else load_recipe(name), self._run.recipe_folder
        return settings, own if name == OWN else own.parents[1] / settings.track / settings.name

    def _make_maps(self, recipe: str, weights: str, layer: int) -> torch.Tensor:
        """Weights [H, T, T] of a layer; another recipe's orthogonal queries and keys are drawn only here."""
        untrained = weights in (self.START, self.ALIKE)
        model = self._network(recipe, self.START if untrained else weights)
        if untrained and recipe != OWN and self._recipe(recipe)[0].model.init == "orthogonal":
            generator, attn = torch.Generator().manual_seed(layer), n02_network.blocks_of(model)[layer].attn
            for part in (attn.c_q, attn.c_k):
                torch.nn.init.orthogonal_(part.weight, generator=generator)
        model = n02_network.matched(model) if weights == self.ALIKE else model
        return n02_network.attention_maps(model, self._ids.to(model.tok_emb.weight.device), layer)[0].cpu()

    def _make_network(self, recipe: str, weights: str) -> GPT:
        """The seed's network, or the untrained one; of another recipe only as far as an untrained map depends on it: on
        the embedding and its own layer's queries and keys. Orthogonal ones take seconds: they are left to `_make_maps`.
        """
        settings, folder = self._recipe(recipe)
        check_vocab(self._tokenizer.vocab_size, settings.model.vocab_size, self._run.dataset.name)
        if weights == self.START:
            small = dataclasses.replace(settings.model, mlp_hidden=2, init="uniform")
            return self._own if recipe == OWN else build_model(small, seed=0).eval()
        if weights not in (known := self.fitting(recipe)["weights"]):
            raise UserError(f"{recipe} has no weights '{weights}'; there are: {', '.join(known)}")
        recorded = recorded_recipe(folder := folder / f"seed{re.sub('[^0-9]', '', weights)}")
        if recorded.model != settings.model or recorded.data.dataset != self._run.dataset.name:
            raise UserError(f"{folder.name} of {recipe} was trained as another network or on other data than this run")
        return network_with(settings.model, load_tensors(folder / AVERAGED_WEIGHTS)[0]).eval()


def _by_distance(maps: torch.Tensor) -> pd.DataFrame:
    """Mean weight of a map [T, T] by distance over its second half, in bins that grow by the square root of two:
    columns first, last, weight, of_even: relative to weight that is spread evenly."""
    late, near = torch.arange(len(maps) // 2, len(maps)), torch.arange(len(maps) // 2 + 1)
    weight = maps[late[:, None], late[:, None] - near].mean(0).double().numpy()
    borders = sorted({0, 1, *(round(2 ** (k / 2)) for k in range(2, 64) if 2 ** (k / 2) < len(near))})
    means = np.add.reduceat(weight, borders) / np.diff([*borders, len(near)])
    last = np.append(borders[1:], len(near)) - 1
    even = float((1 / (late + 1).double()).mean())
    return pd.DataFrame({"first": borders, "last": last, "weight": means, "of_even": means / even})


@plots.styled
def _head_figure(title: str, weights: np.ndarray, pieces: list[str], table: pd.DataFrame) -> plots.Chart:
    fig, (left, right) = plots.figure(1, 2, size=(8.4, 4.1), title=title)
    image = left.imshow(weights, norm=PowerNorm(0.5, 0, np.nanmax(weights)), cmap="cividis", interpolation="nearest")
    left.set_xticks(range(len(pieces)), pieces, rotation=90, fontsize=5.5)
    left.set_yticks(range(len(pieces)), pieces, fontsize=5.5)
    left.grid(visible=False)
    left.set(xlabel="token attended to", ylabel="attending token")
    fig.colorbar(image, ax=left, label="attention weight", shrink=0.8, pad=0.02)
    middle, relative = (table["first"] + table["last"]) / 2, table["of_even"]
    right.plot(middle, relative, "o-", color=plots.PALETTE[5], markersize=4, label="this head")
    right.axhline(1, linestyle="--", color="#666666", linewidth=1, label="spread evenly")
    right.set_xscale("symlog", base=2, linthresh=1)
    right.set_yscale("log", base=2)
    right.set(xlabel="tokens back (log scale from 1)", ylabel="mean attention weight, relative to even")
    right.set(xlim=(-0.3, 1.2 * table["last"].iloc[-1] + 1))
    right.set(ylim=(min(0.5, 0.8 * relative.min()), max(2.0, 1.25 * relative.max())))
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter("{x:.3g}")
        axis.set_minor_formatter(NullFormatter())
    right.legend(loc="best")
    return fig


class Rounding(Drawing):
    """One matrix rounded one way: its grid, what its codes take and how far the weights move."""

    name, labels = "05-rounding", {"tensor": "matrix", "rule": "rounded by"}
    FLOOR, FREE, STEP = "bits, floor 1/M", "bits, no floor", "one step"
    BITS = (4, 5, 6, 7, 8)
    STEPS = tuple(2.0**-k for k in range(2, 11))
    SAMPLE = 2**16
    """Weights of a matrix, in whole rows, that the comparison of all ways is taken over."""
    MOST_LINES = 130

    def __init__(self, weights: Mapping[str, torch.Tensor], grids: Mapping[str, str]):
        """`grids` are names of grids as grid_names_for gives them: matrices on one are offered, else all matrices."""
        gridded = {name: weights[name].float() for name, grid in grids.items() if grid != "fp16"}
        self._weights = gridded or {name: w.float() for name, w in weights.items() if w.dim() == 2}
        tensors = sorted(self._weights, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")])
        tensor = max(tensors, key=lambda name: ("blocks." in name, self._weights[name].numel()))
        grid = GRIDS.get(grids[tensor])
        rule = self.FREE if grid and grid.scale_floor < 1e-6 else self.FLOOR
        bits = grid.levels.bit_length() + 1 if grid else 6
        rules, steps = [self.FLOOR, self.FREE, self.STEP], [(f"1/{1 / step:g}", step) for step in self.STEPS]
        self.options = {"tensor": tensors, "rule": rules, "bits": self.BITS, "step": steps}
        self.default = {"tensor": tensor, "rule": rule, "bits": bits, "step": 1 / 32}
        self._ways = functools.lru_cache(maxsize=64)(self._all_ways)

    def fitting(self, *arguments: Any, **values: Any) -> dict[str, Sequence[Any]]:
        """A step has no bits, and the other way round."""
        idle = "bits" if values["rule"] == self.STEP else "step"
        return {name: options for name, options in self.options.items() if name != idle}

    def draw(self, tensor: str, rule: str, bits: int, step: float) -> Drawn:
        """The weights over that grid, and error against bits of all ways, this one marked."""
        if tensor not in self._weights:
            raise UserError(f"no matrix '{tensor}' is rounded here; there are: {', '.join(self.options['tensor'])}")
        if rule not in self.options["rule"] or bits not in self.BITS or not step > 0:
            raise UserError(f"'{rule}' at {bits} bits or a step of {step:g}: choose 4 to 8 bits, a step > 0")
        w = self._weights[tensor]
        found, scales = self._rounded(w, rule, bits, step)
        middle, largest = float(scales.median()), float(w.abs().max())
        most = int(largest / middle) + 1 if rule == self.STEP else _row_grid(bits, True).levels
        lines = np.arange(-most, most + 1) * middle
        lines = lines[np.abs(lines) <= largest + middle / 2]
        rows = float((scales <= _row_grid(bits, True).scale_floor * (1 + 2**-10)).float().mean())  # float16 rounds it
        at_floor = f", {rows:.0%} of the rows lie at the floor" if rule == self.FLOOR else ""
        said = (
            f"{tensor}, {w.shape[0]} × {w.shape[1]}: {found['used']} codes in use take {found['bits']:.2f} bits a "
            f"weight (order-0 entropy; {found['bits'] * w.numel() / 8:,.0f} bytes without scales); the error is "
            f"{found['error']:.1%} of the weights' own rms, {found['zeros']:.0%} of them round to zero{at_floor}."
        )
        title = f"{tensor}: " + (f"step 1/{1 / step:g}" if rule == self.STEP else f"{bits} {rule}")
        few, table = lines if len(lines) <= self.MOST_LINES else lines[:0], self._ways(tensor)
        return Drawn(_rounding_figure(title, w.flatten().numpy(), few, table, found | {"rule": rule}), table, said)

    def _rounded(self, w: torch.Tensor, rule: str, bits: int, step: float) -> tuple[dict[str, Any], torch.Tensor]:
        """Bits a weight, relative error, codes in use and share of zeros; and the scale of every row."""
        if rule == self.STEP:
            codes, scales = (w / step).round().to(torch.int32), torch.full((len(w),), step)
        else:
            codes, scales = quantise_tensor(w, _row_grid(bits, rule == self.FLOOR))
        counts = codes.unique(return_counts=True)[1].numpy()
        squares = (dequantise(codes, scales) - w).double().square().sum() / w.double().square().sum().clamp_min(1e-30)
        zeros = float((codes == 0).float().mean())
        found = {"bits": entropy_bits(counts), "error": float(squares.sqrt()), "used": len(counts), "zeros": zeros}
        return found, scales.float()

    def _all_ways(self, tensor: str) -> pd.DataFrame:
        """Every rule at every setting on a part of the rows: columns rule, setting, bits, error, used, zeros."""
        w = self._weights[tensor]
        w = w[:: max(1, round(w.numel() / self.SAMPLE))]
        ways = [(rule, bits, 1.0) for rule in (self.FLOOR, self.FREE) for bits in self.BITS]
        ways += [(self.STEP, 0, step) for step in self.STEPS]
        return pd.DataFrame([
            {"rule": rule, "setting": bits or step} | self._rounded(w, rule, bits, step)[0]
            for rule, bits, step in ways
        ])  # fmt: skip


def _row_grid(bits: int, floored: bool) -> Grid:
    """PR 332's grid of so many bits, with its floor of 1/M or without."""
    levels = 2 ** (bits - 1) - 1
    floor = 1 / levels if floored else NO_FLOOR
    return dataclasses.replace(GRIDS["int8_row_clip"], qmin=-levels, qmax=levels, levels=levels, scale_floor=floor)


@plots.styled
def _rounding_figure(
    title: str, weights: np.ndarray, lines: np.ndarray, table: pd.DataFrame, own: Mapping[str, Any]
) -> plots.Chart:
    fig, (left, right) = plots.figure(1, 2, size=(8.4, 3.6), title=title)
    left.hist(weights, bins=80, histtype="stepfilled", color=plots.COLOURS["weights"], alpha=0.55)
    left.set(xlabel="weight", ylabel="weights (log scale)", yscale="log")
    left.xaxis.set_major_locator(MaxNLocator(5))
    plots.draw_grid(left, lines)
    left.grid(axis="x", visible=False)
    if len(lines):
        left.legend(loc="upper right")
    for index, (name, rows) in enumerate(table.groupby("rule", sort=False)):
        colour, marker = plots.PALETTE[(5, 0, 1)[index]], plots.MARKERS[index]
        right.plot(rows["bits"], 100 * rows["error"], color=colour, marker=marker, markersize=4, label=name)
        if name == own["rule"]:
            right.plot(own["bits"], 100 * own["error"], "*", color=colour, markersize=15, markeredgecolor="#222222")
    right.set(xlabel="bits a weight (entropy of the codes)", ylabel="rounding error (% of rms)", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(NullFormatter())
    right.legend(loc="best")
    return fig


class Windows(Drawing):
    """Plans of windows over a stream: which window scores what, with how much context, at what cost."""

    name, labels = "06-windows", {"window": "window L (tokens)", "stride": "stride S (tokens)"}
    MOST_WINDOWS = 2_000_000
    """More of them take longer to plan than a figure may."""
    SHOWN = 12

    def __init__(self, by_context: pd.DataFrame, sliding: Score):
        """`by_context` is n06_scoring.bpb_by_context of side-by-side windows, `sliding` the run's own score."""
        self._by_context, self.targets, window = by_context, sliding.tokens, sliding.seq_len
        own = plan_windows(sliding.tokens, window, sliding.stride)
        self._seconds = sliding.seconds / max(1, int((own[:, 2] - own[:, 0]).sum()))
        halvings = {window * 2 // 2**k for k in range(window.bit_length() + 1)}
        windows = sorted(size for size in halvings if 32 * size >= window)
        self.options = {"window": windows, "stride": sorted({*halvings, sliding.stride})}
        self.default = {"window": window, "stride": sliding.stride}

    def draw(self, window: int, stride: int) -> Drawn:
        """The first windows of that plan, and the context of all its targets."""
        if stride > window:
            why = f"is larger than window {window:,}: the targets between two windows would never be scored"
            raise UserError(f"stride {stride:,} {why}; choose a stride of at most {window:,}")
        if self.targets // stride > self.MOST_WINDOWS:
            why = f"makes {self.targets // stride:,} windows, too many to plan in a second"
            least = -(-self.targets // self.MOST_WINDOWS)
            raise UserError(f"stride {stride:,} {why}; choose a stride of at least {least:,}")
        plan = plan_windows(self.targets, window, stride)
        positions = int((plan[:, 2] - plan[:, 0]).sum())
        least = int((plan[1:, 1] - plan[1:, 0]).min(initial=window - 1)) + 1
        said = (
            f"{len(plan):,} windows read {positions:,} positions to score {self.targets:,} targets, "
            f"{positions / self.targets:.2f} a target: about {self._seconds * positions:,.1f} s at the speed of "
            f"this run's sliding score. After the first window a target has {least:,} to {window:,} tokens of context."
        )
        title, table = f"Window {window:,}, stride {stride:,}", n06_scoring.context_shares(plan)
        return Drawn(_windows_figure(title, plan[: self.SHOWN], table, self._by_context), table, said)


@plots.styled
def _windows_figure(title: str, plan: np.ndarray, table: pd.DataFrame, measured: pd.DataFrame) -> plots.Chart:
    fig, (left, right) = plots.figure(1, 2, size=(8.4, 3.6), title=title)
    dark, bright = (mpl.colormaps["cividis"](place) for place in (0.0, 1.0))  # the colours of the toy text's picture
    start, first, end = plan.T
    for begin, stop, colour, what in ((start, first, dark, "only read"), (first, end, bright, "scored")):
        left.barh(range(len(plan)), stop - begin, left=begin, height=0.7, color=colour, label=what)
    left.invert_yaxis()
    left.grid(axis="y", visible=False)
    left.set(xlabel="target", ylabel=f"window (the first {len(plan)})", xlim=(0, max(1, end.max())))
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.legend(loc="best")

    edges = np.concatenate(([0.5], table["last"]))
    right.bar(edges[:-1], 100 * table["share"], width=np.diff(edges), align="edge", color=bright, edgecolor="white")
    plots.binary_axis(right)
    right.set_xticks(table["last"], [f"{last:,}" for last in table["last"]], fontsize=8)
    right.set(xlabel="tokens of context (log scale)", ylabel="bars: targets (%)", ylim=(0, 100))
    right.grid(axis="x", visible=False)
    worth = right.twinx()
    worth.plot(measured["middle"], measured["bpb"], "o-", color="#222222", markersize=4)
    worth.set_ylabel("line: bits per byte at that context")
    worth.grid(visible=False)
    worth.spines["right"].set_visible(True)
    return fig
