"""What the controls of notebooks 02, 05 and 06 draw: their values in, a figure, its numbers and a sentence out.

Each class is made once in a notebook, holds what is costly, and draws in well under a second. Values that make no
figure are UserErrors. Nothing here knows of widgets; `pgolf_core/lab/look/controls.py` puts them on.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from pgolf_core.base.files import UserError
from pgolf_core.base.names import AVERAGED_WEIGHTS
from pgolf_core.lab.look import n02_network as analysis_model
from pgolf_core.lab.look import n06_scoring as analysis_scoring
from pgolf_core.lab.look.beside_records import OWN
from pgolf_core.lab.look.n01_data import entropy_bits, visible_piece
from pgolf_core.lab.look.n05_packing import NO_FLOOR
from pgolf_core.lab.record import stages
from pgolf_core.lab.record.folder import Run, recorded_recipe
from pgolf_core.lab.shared import plots
from pgolf_core.network.grid import GRIDS, Grid, dequantise, quantise_tensor
from pgolf_core.network.model import GPT, build_model, network_with
from pgolf_core.network.score import Score, plan_windows
from pgolf_core.recipes import recipe as recipes
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.text.tokenizer import check_vocab
from pgolf_core.training.checkpoint import load_tensors


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One drawing."""

    figure: Figure
    table: pd.DataFrame
    """The numbers in the figure."""
    said: str
    """One sentence or two that give what the figure cannot: counts, costs."""


# ---------------------------------------------------------------------- 02: heads


class Heads:
    """Attention of one head on the first validation tokens: of any recipe before training, of any seed trained here."""

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
        self.recipes = [OWN, *available_recipes()]

    def settings(self, recipe: str) -> recipes.Recipe:
        """The recipe of that name."""
        return self._run.recipe if recipe == OWN else load_recipe(recipe)

    def weights(self, recipe: str) -> list[str]:
        """What there is of a recipe: its two untrained networks and every seed that has been trained."""
        paths = self._folder(recipe).glob("seed*/weights-averaged.safetensors")
        found = (re.fullmatch(r"seed(\d+)", path.parent.name) for path in paths)
        return [self.START, self.ALIKE, *(f"seed {k}, trained" for k in sorted(int(name[1]) for name in found if name))]

    def draw(self, recipe: str, weights: str, layer: int, head: int) -> Drawn:
        """That head's weights on the first tokens one by one, and over all of them by distance."""
        config = self.settings(recipe).model
        for what, number, count in (("layer", layer, config.num_layers), ("head", head, config.num_heads)):
            if not 0 <= number < count:
                raise UserError(f"{what} {number} is not in {recipe}: it has {what}s 0 to {count - 1}")
        maps = self._maps(recipe, weights, layer)[head]
        table = _by_distance(maps)
        found = analysis_model.attention_statistics(maps[None, None])
        said = (
            f"{recipe}, {weights}: in the second half of {len(maps)} tokens layer {layer}, head {head} spreads over "
            f"{found['effective positions']:.1f} of {0.75 * len(maps):.0f} positions, {found['weight on itself']:.1%} "
            f"on itself, {found['weight on the one before']:.1%} on the token before, and looks back "
            f"{found['tokens looked back']:.1f} tokens."
        )
        title = f"{recipe}, {weights}: layer {layer}, head {head}"
        return Drawn(_head_figure(maps[: self.SHOWN, : self.SHOWN].numpy(), self._pieces, table, title), table, said)

    def _folder(self, recipe: str) -> Path:
        one = self.settings(recipe)
        own = self._run.recipe_folder
        return own if recipe == OWN else own.parents[1] / one.track / one.name

    def _make_maps(self, recipe: str, weights: str, layer: int) -> torch.Tensor:
        model = self._network(recipe, self.START if weights == self.ALIKE else weights)
        if weights in (self.START, self.ALIKE) and self.settings(recipe).model.init == "orthogonal" and recipe != OWN:
            _make_orthogonal(model, layer)
        model = analysis_model.matched(model) if weights == self.ALIKE else model
        device = next(model.parameters()).device
        return analysis_model.attention_maps(model, self._ids.to(device), layer)[0].cpu()

    def _make_network(self, recipe: str, weights: str) -> GPT:
        """The seed's network, or the untrained one; of another recipe only as far as an untrained map depends on it.

        Before training no block adds anything: a map knows the embedding and its own layer's queries and keys alone.
        Orthogonal matrices and wide MLPs take seconds to draw at full size, so the former are left to `_make_maps`.
        """
        settings = self.settings(recipe)
        check_vocab(self._tokenizer.vocab_size, settings.model.vocab_size, self._run.dataset.name)
        if weights != self.START:
            return self._trained(recipe, weights, settings)
        if recipe == OWN:
            return self._own
        return build_model(dataclasses.replace(settings.model, mlp_hidden=2, init="uniform"), seed=0).eval()

    def _trained(self, recipe: str, weights: str, settings: recipes.Recipe) -> GPT:
        if weights not in self.weights(recipe):
            raise UserError(f"{recipe} has no weights '{weights}'; there are: {', '.join(self.weights(recipe))}")
        folder = self._folder(recipe) / f"seed{re.sub('[^0-9]', '', weights)}"
        recorded = recorded_recipe(folder)
        if recorded.model != settings.model or recorded.data.dataset != self._run.dataset.name:
            raise UserError(f"{folder.name} of {recipe} was trained as another network or on other data than this run")
        return network_with(settings.model, load_tensors(folder / AVERAGED_WEIGHTS)[0]).eval()


def _by_distance(maps: torch.Tensor) -> pd.DataFrame:
    """Mean weight of a map [T, T] by distance over its second half: columns first, last, weight, of_even.

    Bins grow by the square root of two; of_even is relative to weight that is spread evenly.
    """
    late = torch.arange(len(maps) // 2, len(maps))
    near = torch.arange(len(maps) // 2 + 1)
    weight = maps[late[:, None], late[:, None] - near].mean(0).double().numpy()
    borders = sorted({0, 1, *(round(2 ** (k / 2)) for k in range(2, 64) if 2 ** (k / 2) < len(near))})
    means = np.add.reduceat(weight, borders) / np.diff([*borders, len(near)])
    last = np.append(borders[1:], len(near)) - 1
    even = float((1 / (late + 1).double()).mean())
    return pd.DataFrame({"first": borders, "last": last, "weight": means, "of_even": means / even})


@torch.no_grad()
def _make_orthogonal(model: GPT, layer: int) -> None:
    """Draw one layer's queries and keys as an orthogonal start has them; the same each time."""
    generator = torch.Generator().manual_seed(layer)
    for linear in (model.blocks[layer].attn.c_q, model.blocks[layer].attn.c_k):
        torch.nn.init.orthogonal_(linear.weight, generator=generator)


@plots.styled
def _head_figure(weights: np.ndarray, pieces: list[str], table: pd.DataFrame, title: str) -> Figure:
    fig, (left, right) = _two_panels(4.1, title)
    image = left.imshow(weights, norm=PowerNorm(0.5, 0, np.nanmax(weights)), cmap="cividis", interpolation="nearest")
    for axis, turn in ((left.xaxis, 90), (left.yaxis, 0)):
        axis.set_ticks(range(len(pieces)), pieces, rotation=turn, fontsize=5.5)
    left.grid(visible=False)
    left.set(xlabel="token attended to", ylabel="attending token")
    fig.colorbar(image, ax=left, label="attention weight", shrink=0.8, pad=0.02)
    middle = (table["first"] + table["last"]) / 2
    right.plot(middle, table["of_even"], "o-", color=plots.PALETTE[5], markersize=4, label="this head")
    right.axhline(1, linestyle="--", color="#666666", linewidth=1, label="spread evenly")
    right.set_xscale("symlog", base=2, linthresh=1)
    right.set_yscale("log", base=2)
    right.set(xlabel="tokens back (log scale from 1)", ylabel="mean attention weight, relative to even")
    right.set_xlim(-0.3, 1.2 * table["last"].iloc[-1] + 1)
    right.set_ylim(min(0.5, 0.8 * table["of_even"].min()), max(2.0, 1.25 * table["of_even"].max()))
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.set_minor_formatter(NullFormatter())
    right.legend(loc="best")
    return fig


# ---------------------------------------------------------------------- 05: rounding


class Rounding:
    """One matrix rounded one way: its grid, what its codes take and how far the weights move."""

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
        self.tensors = sorted(self._weights, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")])
        self.tensor = max(self.tensors, key=lambda name: ("blocks." in name, self._weights[name].numel()))
        grid = GRIDS.get(grids[self.tensor])
        self.bits = grid.levels.bit_length() + 1 if grid else 6
        self.rule = self.FREE if grid and grid.scale_floor < 1e-6 else self.FLOOR
        self.step = 1 / 32
        self._ways = functools.lru_cache(maxsize=64)(self._all_ways)

    def draw(self, tensor: str, rule: str, bits: int, step: float) -> Drawn:
        """The weights over that grid, and error against bits of all ways, this one marked."""
        if tensor not in self._weights:
            raise UserError(f"no matrix '{tensor}' is rounded here; there are: {', '.join(self.tensors)}")
        if rule not in (self.FLOOR, self.FREE, self.STEP) or bits not in self.BITS or not step > 0:
            raise UserError(
                f"'{rule}' at {bits} bits or a step of {step:g}: choose {self.BITS[0]} to 8 bits, a step > 0"
            )
        w = self._weights[tensor]
        codes, scales = self._round(w, rule, bits, step)
        found = self._measure(w, codes, scales)
        middle = float(scales.median())
        most = int(w.abs().max() / middle) + 1 if rule == self.STEP else _row_grid(bits, True).levels
        lines = np.arange(-most, most + 1) * middle
        lines = lines[np.abs(lines) <= float(w.abs().max()) + middle / 2]
        table = self._ways(tensor)
        rows = float((scales <= _row_grid(bits, True).scale_floor * (1 + 2**-10)).float().mean())  # float16 rounds it
        at_floor = f", {rows:.0%} of the rows lie at the floor" if rule == self.FLOOR else ""
        said = (
            f"{tensor}, {w.shape[0]} × {w.shape[1]}: {found['used']} codes in use take {found['bits']:.2f} bits a "
            f"weight (order-0 entropy; {found['bits'] * w.numel() / 8:,.0f} bytes without scales); the error is "
            f"{found['error']:.1%} of the weights' own rms, {found['zeros']:.0%} of them round to zero{at_floor}."
        )
        how = f"step 1/{1 / step:g}" if rule == self.STEP else f"{bits} {rule}"
        few = lines if len(lines) <= self.MOST_LINES else lines[:0]
        return Drawn(_rounding_figure(w.flatten().numpy(), few, table, rule, found, f"{tensor}: {how}"), table, said)

    @staticmethod
    def _round(w: torch.Tensor, rule: str, bits: int, step: float) -> tuple[torch.Tensor, torch.Tensor]:
        if rule == Rounding.STEP:
            return (w / step).round().to(torch.int32), torch.full((len(w),), step)
        codes, scales = quantise_tensor(w, _row_grid(bits, rule == Rounding.FLOOR))
        return codes, scales.float()

    @staticmethod
    def _measure(w: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> dict[str, float]:
        counts = np.bincount((codes.int() - int(codes.min())).flatten().numpy())
        squares = (dequantise(codes, scales) - w).double().square().sum() / w.double().square().sum().clamp_min(1e-30)
        zeros = float((codes == 0).float().mean())
        return {
            "bits": entropy_bits(counts),
            "error": float(squares.sqrt()),
            "used": np.count_nonzero(counts),
            "zeros": zeros,
        }

    def _all_ways(self, tensor: str) -> pd.DataFrame:
        """Every rule at every setting on a part of the rows: columns rule, setting, bits, error, used, zeros."""
        w = self._weights[tensor]
        w = w[:: max(1, round(w.numel() / self.SAMPLE))]
        settings = [(rule, bits, 1.0) for rule in (self.FLOOR, self.FREE) for bits in self.BITS]
        settings += [(self.STEP, 0, step) for step in self.STEPS]
        rows = [
            {"rule": rule, "setting": step if rule == self.STEP else bits}
            | self._measure(w, *self._round(w, rule, bits, step))
            for rule, bits, step in settings
        ]
        return pd.DataFrame(rows)


def _row_grid(bits: int, floored: bool) -> Grid:
    """PR 332's grid of so many bits, with its floor of 1/M or without."""
    levels = 2 ** (bits - 1) - 1
    floor = 1 / levels if floored else NO_FLOOR
    base = GRIDS["int8_row_clip"]
    return dataclasses.replace(base, name="", qmin=-levels, qmax=levels, levels=levels, scale_floor=floor)


@plots.styled
def _rounding_figure(
    weights: np.ndarray, lines: np.ndarray, table: pd.DataFrame, rule: str, found: Mapping[str, float], title: str
) -> Figure:
    fig, (left, right) = _two_panels(3.6, title)
    for line in lines:
        left.axvline(float(line), color="#BBBBBB", linewidth=0.7, zorder=0.5)
    left.hist(weights, bins=80, histtype="stepfilled", color=plots.COLOURS["weights"], alpha=0.55)
    left.set(xlabel="weight", ylabel="weights (log scale)", yscale="log")
    left.grid(axis="x", visible=False)
    left.xaxis.set_major_locator(MaxNLocator(5))
    if len(lines):
        left.plot([], [], color="#BBBBBB", label=f"grid ({len(lines)} values)")
        left.legend(loc="upper right")
    for index, (name, rows) in enumerate(table.groupby("rule", sort=False)):
        colour, marker = plots.PALETTE[(5, 0, 1)[index]], plots.MARKERS[index]
        right.plot(rows["bits"], 100 * rows["error"], color=colour, marker=marker, markersize=4, label=name)
        if name == rule:
            right.plot(found["bits"], 100 * found["error"], "*", color=colour, markersize=15, markeredgecolor="#222222")
    right.set(xlabel="bits a weight (entropy of the codes)", ylabel="rounding error (% of rms)", yscale="log")
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.yaxis.set_minor_formatter(NullFormatter())
    right.legend(loc="best")
    return fig


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
