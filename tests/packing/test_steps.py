"""Steps from gradients, spent to the byte: tables, coder, allocation, budget, and the file that holds them.

pytest tests/packing/test_steps.py
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tiny_artifact import MODEL, contents, signed, tiny_state, write
from tiny_steps import CAP, QUANT, gaussian, tiny_groups, uneven

from pgolf_core.base.files import UserError
from pgolf_core.network.grid import qat_grids
from pgolf_core.packing import allocation, coder, steps
from pgolf_core.packing.format import version_of
from pgolf_core.packing.ledger import CapExceeded
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import GroupMeter, Groups, groups_of
from pgolf_core.packing.unpack import read_header, unpack
from pgolf_core.recipes import recipe

GOLDEN: dict[str, Any] = {
    "tables": "158d0a9d1cc80e5b167613c161fc8b9ecaa3fb4b13bb9b0c934f2fe95554033f",
    "stream": (108, "44b56bb72c362643903e6f614e6259dadd4bd2b8e2d38c6f8e8df18f1eef62fd"),
    "weights": "0d5275e07f89642f4218fbaa3926789142ef19b3b5ba64d39dc29220ff29bd8a",
    "begins": "8950474f4c460d0a0300",
}
"""Of `pinned_items`, of a packed file, and of all tables. Changing any of it is a new format version."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("steps") / "model.pgolf"
    pack(tiny_state(), MODEL, QUANT, path, sensitivity=tiny_groups(), **CAP)
    return path


# ---------------------------------------------------------------------- tables and coder


def test_tables_are_whole_numbers_of_the_right_sum_and_symmetric():
    for k in range(coder.FIRST, coder.LAST + 1, 3):
        table = coder.frequencies(k, k % 4)
        assert table.dtype == np.int64 and table.min() >= 1 and table.sum() == 2**coder.PRECISION
        assert len(table) == 2 * coder.reach(k) + 1 and (table == table[::-1]).all()


@pytest.mark.parametrize(("k", "fraction"), [(-12, 0), (-5, 1), (0, 0), (0, 2), (3, 3), (8, 0), (21, 1), (40, 3)])
def test_a_table_is_the_rounded_gaussian_of_its_class(k: int, fraction: int):
    numbers, deviation = np.arange(-coder.reach(k), coder.reach(k) + 1), 2 ** ((4 * k + fraction) / 16)
    exact = norm.cdf((numbers + 0.5) / deviation) - norm.cdf((numbers - 0.5) / deviation)
    table = coder.frequencies(k, fraction)
    wasted_bits = float((exact * np.log2(exact.clip(1e-300) * 2**coder.PRECISION / table)).sum())
    assert -1e-6 < wasted_bits < 2e-3


def test_tables_are_pinned_and_made_without_floating_point():
    coder.frequencies.cache_clear()
    coder._half_masses.cache_clear()
    digest = hashlib.sha256()
    for k in range(coder.FIRST, 41):
        for fraction in range(4):
            digest.update(coder.frequencies(k, fraction).astype("<i8").tobytes())
    assert coder._half_masses().dtype == np.int64
    assert digest.hexdigest() == GOLDEN["tables"]


def test_what_the_library_is_given_sums_exactly_in_single_precision():
    for k in (coder.FIRST, 0, 20, 40):
        given = (coder.frequencies(k) - 1).astype(np.float32)
        assert (np.cumsum(given, dtype=np.float32) == np.cumsum(coder.frequencies(k) - 1)).all()
        assert given.sum(dtype=np.float32) == 2**coder.PRECISION - len(given)  # so the library's own factor is 1


@pytest.mark.parametrize("fraction", [0, 3])
def test_numbers_of_all_classes_come_back_in_the_bits_that_the_tables_promise(fraction: int):
    random = np.random.default_rng(0)
    classes = random.integers(coder.FIRST, 41, 20_000).astype(np.int8)
    values = coder.clip(np.rint(random.standard_normal(20_000) * 2.0 ** (classes / 4)), classes)
    side, side_classes = np.array([3, -900, 0]), np.full(3, 28)
    payload = coder.encode([(side, side_classes), (values, classes)], fraction)
    decoder = coder.Decoder(payload, fraction)
    assert (decoder.take(side_classes) == side).all()
    assert (decoder.take(classes) == values).all() and decoder.finished()
    promised = coder.lengths(values, classes, fraction).sum() + coder.lengths(side, side_classes, fraction).sum()
    assert promised / 8 <= len(payload) <= promised / 8 + 8


def test_a_table_that_learns_codes_what_is_not_gaussian_in_fewer_bits_and_costs_little_where_it_is():
    random = np.random.default_rng(0)
    gaussian_like = np.rint(4 * random.standard_normal(500)).astype(np.int32)
    spiked = np.where(random.random(500) < 0.5, 14, gaussian_like).astype(np.int32)
    for values, least, most in ((gaussian_like, 0.98, 1.05), (spiked, 0.6, 0.85)):
        k = coder.best_class(values)
        payload = coder.encode([(values, k), (values[:0], k), (values[:1], k)])
        assert least < len(payload) * 8 / coder.lengths(values, np.full(500, k)).sum() < most
        decoder = coder.Decoder(payload)
        assert (decoder.learn(k, 500) == values).all() and not len(decoder.learn(k, 0))
        assert decoder.learn(k, 1) == values[:1] and decoder.finished()


@pytest.mark.parametrize("count", [1, 1000, 2**27])
def test_a_learnt_table_is_one_that_the_library_takes_exactly(count: int):
    counts = np.zeros(2 * coder.reach(28) + 1, np.int64)
    counts[7] = count
    table = coder._learnt(28, counts)
    assert table.dtype == np.int64 and table.min() >= 1 and table.sum() == 2**coder.PRECISION
    assert table[7] == pytest.approx(2**coder.PRECISION * count / (count + coder._PRIOR), rel=1e-3)


def test_outliers_are_limited_to_what_their_class_can_code():
    classes = np.array([coder.FIRST, 0, 8])
    assert coder.clip(np.array([1e9, -1e9, 3.0]), classes).tolist() == [coder.reach(coder.FIRST), -coder.reach(0), 3]


@pytest.mark.parametrize("multiplier", [1.0, 2.0**-10, 2.0**-149, 3.4e38, 0.7, 1e-5, 1.0905077])
def test_a_multiplier_falls_on_the_sixteenth_of_an_octave_that_logarithms_say(multiplier: float):
    multiplier = float(np.float32(multiplier))
    quarters, fraction = steps.sixteenths(multiplier)
    assert 0 <= fraction < 4 and abs(4 * quarters + fraction + 16 * math.log2(multiplier) + 0.5) <= 0.50001


def test_a_vector_like_an_earlier_one_costs_less_and_one_like_none_names_none():
    random = np.random.default_rng(0)
    first, other = (np.rint(6 * random.standard_normal(384)).astype(np.int32) for _ in range(2))
    alike = np.rint(0.75 * first + random.standard_normal(384)).astype(np.int32)
    assert steps._related(alike, [first, other]) == (2, 3)
    assert steps._related(-alike, [other, first]) == (1, -3)
    assert steps._related(other, [first, alike]) == steps._related(other * 0, [first]) == (0, 0)
    plain = [steps.Stepped(0, 0, v, first[:2], first * 0, first[:2]) for v in (first, alike, other)]
    bits = [8 * steps.side_bytes(plain[:n]) for n in (1, 2, 3)]
    assert bits[1] - bits[0] < 0.65 * (bits[2] - bits[1])


# ---------------------------------------------------------------------- steps from sensitivity


def test_steps_fall_with_the_root_of_the_sensitivity():
    groups = uneven(96, 128)
    shape = allocation.plan(gaussian(96, 128), groups).shape
    rows, cols = shape.steps(1.0)
    expected = 1 / np.sqrt(np.maximum(groups.rows, 1e-3 * groups.mean)[:, None] * groups.cols[None] / groups.mean)
    assert np.abs(np.log2(rows * cols / expected)).max() <= 0.5  # two roundings to a quarter octave, and the matrix's


def test_on_gaussian_weights_steps_by_sensitivity_beat_equal_steps_by_what_the_theory_says():
    w, groups = gaussian(96, 128), uneven(96, 128, octaves=2)
    weighting = groups.rows[:, None] * groups.cols[None] / groups.mean
    lost = {}
    for label, known in (("own", groups), ("even", Groups.even(w.shape, groups.mean))):
        made = allocation.plan(w, known)
        multiplier, _ = allocation.fit({"w": made}, 8.0 * w.size)
        lost[label] = float((weighting * (made.rounded(multiplier).weights(multiplier) - w) ** 2).mean())
    gain_bits = 0.5 * (math.log2(weighting.mean()) - np.log2(weighting).mean())
    assert 0.5 * math.log2(lost["even"] / lost["own"]) == pytest.approx(gain_bits, abs=0.1)


def test_groups_that_do_not_pay_for_their_exponents_have_none():
    random = np.random.default_rng(3)
    w = random.standard_normal((64, 64)).astype(np.float32)
    nearly_even = Groups(*(1 + 0.02 * random.standard_normal(64) for _ in range(2)))
    assert not any(getattr(allocation.plan(w, nearly_even).shape, name).any() for name in steps.VECTORS)


def test_rows_without_gradient_and_matrices_without_any_get_steps_that_say_something():
    w, groups = gaussian(64, 32), uneven(64, 32)
    groups.rows[::2] = 0.0
    zero = Groups(np.zeros(64), np.zeros(32))
    made = allocation.plans({"seen": w, "never": w, "absent": w}, {"seen": groups, "never": zero})
    assert np.isfinite(made["seen"].scaled).all()
    ratio = made["seen"].shape.row_steps[::2].max() - made["seen"].shape.row_steps.min()
    assert ratio <= 2 * math.log2(1 / allocation.FLOOR) + 24  # the floor, and the even rows' own range
    assert (made["never"].scaled == made["absent"].scaled).all()
    multiplier, _ = allocation.fit(made, 4.0 * 3 * w.size)
    assert np.abs(made["never"].rounded(multiplier).codes).max() > 1


@pytest.mark.parametrize("bits", [0.5, 2.0, 4.0, 9.0])
def test_the_search_ends_just_below_any_budget_that_can_be_met(bits: float):
    matrices = {"a": allocation.plan(gaussian(96, 128), uneven(96, 128)),
                "b": allocation.plan(gaussian(64, 32, 5), uneven(64, 32, 6, 1e-9))}  # fmt: skip
    weights = 96 * 128 + 64 * 32
    multiplier, tries = allocation.fit(matrices, bits * weights)
    assert 0.999 * bits * weights <= sum(p.bits(multiplier) for p in matrices.values()) <= bits * weights
    assert tries <= 15


def test_a_budget_beyond_the_finest_steps_ends_at_the_finest():
    made = {"a": allocation.plan(gaussian(16, 16), uneven(16, 16))}
    multiplier, _ = allocation.fit(made, 1e9)
    item = made["a"].rounded(multiplier)
    np.testing.assert_allclose(item.weights(multiplier), gaussian(16, 16), rtol=0.01, atol=1e-4)


def test_the_order_of_the_matrices_does_not_matter():
    weights = {name: gaussian(64, 32, seed) for seed, name in enumerate("abc")}
    groups = {name: uneven(64, 32, seed + 9) for seed, name in enumerate("abc")}
    one = allocation.plans(weights, groups)
    other = allocation.plans(dict(reversed(weights.items())), dict(reversed(groups.items())))
    assert all((one[name].scaled == other[name].scaled).all() for name in weights)
    assert allocation.fit(one, 30_000.0)[0] == pytest.approx(allocation.fit(other, 30_000.0)[0], rel=1e-4)


# ---------------------------------------------------------------------- the file


def test_the_file_fills_the_target_and_comes_back_as_it_was_rounded(good: Path):
    ledger = pack(tiny_state(), MODEL, QUANT, good, sensitivity=tiny_groups(), **CAP)
    target = CAP["cap_bytes"] - CAP["cap_bytes"] // 1000
    assert good.stat().st_size == ledger.file_bytes and ledger.steps["target_bytes"] == target
    assert target - 60 <= ledger.total_bytes <= target  # so small a file has steps of several bytes
    model, state = unpack(good)
    assert model == MODEL and list(state) == sorted(tiny_state())
    for row in ledger.tensors:
        w = tiny_state()[row["name"]]
        if row["grid"] == "fp16":
            assert torch.equal(state[row["name"]], w.half().float())
        else:
            assert torch.corrcoef(torch.stack((state[row["name"]].flatten(), w.flatten())))[0, 1] > 0.98
    assert sum(row["compressed_bytes"] or 0 for row in ledger.tensors) + ledger.fp16_bytes == pytest.approx(
        ledger.weights_bytes,
        abs=12,  # an empty stream of grids' codes
    )
    assert ledger.weights_bytes + ledger.scales_bytes + ledger.header_bytes == ledger.file_bytes
    assert ledger.steps["bound_bytes"] <= ledger.steps["coded_bytes"]


@pytest.mark.parametrize("target", [2900, 3500, 4300])
def test_a_target_of_ones_own_is_met_and_the_bytes_are_the_same_again(target: int, tmp_path: Path):
    quant = recipe.Quant(kind="steps", small_tensor_elements=100, target_bytes=target)
    ledgers = [
        pack(state, MODEL, quant, tmp_path / str(i), sensitivity=tiny_groups(), **CAP)
        for i, state in enumerate((tiny_state(), dict(reversed(tiny_state().items()))))
    ]
    assert target - 60 <= ledgers[0].total_bytes <= target
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_a_target_below_what_all_else_takes_is_refused_and_nothing_written(tmp_path: Path):
    with pytest.raises(CapExceeded):
        pack(tiny_state(), MODEL, QUANT, tmp_path / "m", sensitivity=tiny_groups(), code_bytes=1000, cap_bytes=1500)
    assert not (tmp_path / "m").exists()


def test_steps_without_sensitivities_or_with_broken_ones_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="sensitivities"):
        pack(tiny_state(), MODEL, QUANT, tmp_path / "m", **CAP)
    with pytest.raises(UserError, match="rows/w is not finite"):
        groups_of({"rows/w": torch.tensor([1.0, math.nan]), "cols/w": torch.ones(3)})
    with pytest.raises(UserError, match="no gradient statistics"):
        groups_of({"rows/w": torch.zeros(2), "cols/w": torch.zeros(3)})


def test_an_exception_by_name_keeps_its_grid_beside_steps(tmp_path: Path):
    quant = recipe.Quant(kind="steps", small_tensor_elements=100, exceptions=("blocks.0.mlp.*=int6_row",))
    pack(tiny_state(), MODEL, quant, tmp_path / "m", sensitivity=tiny_groups(), **CAP)
    kinds = {name: grid for name, grid, _ in read_header(tmp_path / "m")["tensors"]}
    assert kinds["blocks.0.mlp.fc.weight"] == "int6_row" and kinds["blocks.1.mlp.fc.weight"] == "steps"
    unpack(tmp_path / "m")


def pinned_items() -> dict[str, steps.Stepped]:
    """Two matrices of whole numbers from integer arithmetic."""
    items = {}
    for tag, (rows, cols) in enumerate(((8, 12), (5, 3))):
        vectors = [(np.arange(size) * (7 + tag) % 9 - 4).astype(np.int32) for size in (rows, cols, rows, cols)]
        shape = steps.Stepped(3 - 50 * tag, 10 + tag, *vectors)
        codes = ((np.arange(rows * cols) * 7919 + tag) % 23 - 11).reshape(rows, cols)
        items[f"m{tag}"] = dataclasses.replace(shape, codes=coder.clip(codes, shape.classes()))
    return items


def test_the_format_is_pinned_by_golden_bytes(good: Path):
    assert good.read_bytes()[:10].hex() == GOLDEN["begins"]
    assert list(contents(good)[0]["streams"]) == ["codes", "fp16", "scales", "steps"]
    items = pinned_items()
    payload = steps.write_steps(list(items.values()), 2.0**-10)
    assert (len(payload), hashlib.sha256(payload).hexdigest()) == GOLDEN["stream"]
    weights = steps.read_steps(payload, {name: item.codes.shape for name, item in items.items()})
    assert all((weights[name] == item.weights(2.0**-10)).all() for name, item in items.items())
    assert (
        hashlib.sha256(b"".join(w.astype("<f4").tobytes() for w in weights.values())).hexdigest() == GOLDEN["weights"]
    )


# ---------------------------------------------------------------------- files that lie


def words(*numbers: int, vectors: int = 48) -> bytes:
    """A stream whose first matrix tells these numbers of its first vector: class, like, factor; zeros else."""
    told = [np.array([n, *[0] * (vectors - 1)], np.int32) for n in numbers]
    bases = np.zeros(vectors // 4, np.int32)
    payload = coder.encode([*zip((bases, bases, *told), steps._NUMBERS, strict=True)])
    return b"\0\0\x80\x3f" + payload + bytes(0 if len(payload) else 4)


def set_steps(payload: bytes):
    def edit(header: dict[str, Any], streams: list[bytes]) -> None:
        streams[3] = payload
        header["streams"]["steps"] = len(payload)

    return edit


HOSTILE = {
    "no stream of steps": (set_steps(b""), "a length that no coder ends with"),
    "an odd length": (set_steps(bytes(7)), "a length that no coder ends with"),
    "a multiplier of zero": (set_steps(bytes(8)), "multiplier"),
    "a multiplier that is no number": (set_steps(b"\0\0\xc0\x7f\1\0\0\0"), "multiplier"),
    "words that end in zero": (set_steps(b"\0\0\x80\x3f" + bytes(8)), "steps cannot be decoded"),
    "noise": (set_steps(b"\0\0\x80\x3f" + bytes(range(1, 201))), "steps cannot be decoded"),
    "words left over": (lambda h, s: set_steps(s[3] + b"\1\2\3\4" * 5)(h, s), "steps cannot be decoded"),
    "words missing": (lambda h, s: set_steps(s[3][:-40])(h, s), "steps cannot be decoded"),
    "a class beyond the widest": (set_steps(words(steps._WIDEST + 1, 0, 0)), "a class that no coder has"),
    "a class below the first": (set_steps(words(coder.FIRST - 1, 0, 0)), "a class that no coder has"),
    "like a vector yet to come": (set_steps(words(0, 1, 4)), "like none"),
    "like a vector of the negative past": (set_steps(words(0, -1, 4)), "like none"),
    "no tensor on steps": (
        lambda h, s: [t.__setitem__(1, "fp16") for t in h["tensors"]], "do not agree on steps",
    ),
    "steps for a vector": (
        lambda h, s: next(t for t in h["tensors"] if t[1] == "fp16" and len(t[2]) == 1).__setitem__(1, "steps"),
        "cannot hold",
    ),
    "no stream but tensors": (lambda h, s: (h["streams"].pop("steps"), s.pop()), "agree on steps|version"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_file_with_a_valid_checksum_is_refused(attack: str, good: Path, tmp_path: Path):
    header, streams = contents(good)
    edit, why = HOSTILE[attack]
    edit(header, streams)
    version = version_of(header)
    payload = bytearray(signed(header, streams))
    payload[8:10] = version.to_bytes(2, "little")
    with pytest.raises(UserError, match=why) as caught:
        unpack(write(tmp_path / "m", bytes(payload)))
    assert str(caught.value).count("\n") <= 1


def test_any_flipped_bit_and_any_truncation_is_refused(good: Path, tmp_path: Path):
    payload = good.read_bytes()
    for place in range(0, len(payload), 61):
        broken = bytearray(payload)
        broken[place] ^= 4
        for text in (bytes(broken), payload[:place]):
            with pytest.raises(UserError):
                unpack(write(tmp_path / "m", text))


# ---------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quant": {"kind": "step"}}, "quant.kind = 'step'; allowed: grid, steps"),
        ({"quant": {"target_bytes": 900_000}}, "needs quant.kind = steps"),
        ({"quant": {"kind": "steps", "target_bytes": 16_000_001}}, "over the cap"),
        ({"quant": {"kind": "steps", "target_bytes": -1}}, "at least 0"),
        ({"quant": {"kind": "steps", "allocation": "gradient"}}, "takes quant.allocation = fixed"),
        ({"quant": {"kind": "steps"}, "qat": {"kind": "late"}}, "no grid to train on"),
        ({"quant": {"attention": "steps"}}, "quant.attention = 'steps'"),
    ],
)
def test_a_recipe_of_steps_that_cannot_be_is_refused(changes: dict, why: str):
    with pytest.raises(UserError, match=why):
        recipe.from_dict(changes)


def test_qat_beside_steps_trains_on_the_grid_it_names_and_not_at_all_when_off():
    shapes = {"blocks.0.attn.c_q.weight": (512, 512), "tok_emb.weight": (1024, 512)}
    named = qat_grids(shapes, recipe.Quant(kind="steps"), recipe.QAT(kind="late", grid="int6_row"))
    assert {grid.name for grid in named.values()} == {"int6_row"}
    assert qat_grids(shapes, recipe.Quant(kind="steps"), recipe.QAT()) == {}


# ---------------------------------------------------------------------- the meter


def test_the_meter_of_groups_sums_rows_and_columns_and_leaves_gradients_alone():
    w, bias, idle = torch.zeros(3, 2), torch.zeros(2), torch.zeros(2, 2)
    w.grad, bias.grad = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]), torch.ones(2)
    meter = GroupMeter({"w": w, "bias": bias, "idle": idle})
    before = w.grad.clone()
    meter.add({"w": w, "bias": bias, "idle": idle})
    meter.add({"w": w, "bias": bias, "idle": idle})
    groups = groups_of(meter.sums)
    assert groups["w"].rows.tolist() == [5.0, 9.0, 0.0]
    np.testing.assert_allclose(groups["w"].cols, [20 / 3, 8 / 3])
    assert groups["idle"].mean == 0 and set(groups) == {"w", "idle"} and torch.equal(w.grad, before)
