"""Bytes against loss: other allocations are what they say, and bytes at a loss are those worked out by hand."""

import math
import runpy

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_steps import gaussian, uneven

from pgolf_core.lab.bench import frontier
from pgolf_core.packing.sensitivity import Groups


@pytest.fixture(scope="module")
def known() -> dict[str, Groups]:
    return {"a": uneven(16, 8, 1), "b": uneven(8, 4, 2, 1e-9)}


def test_one_step_for_all_and_whole_tensors_forget_what_they_should(known: dict[str, Groups]):
    assert {float(v) for g in frontier.even(known, 1.0).values() for v in (*g.rows, *g.cols)} == {1.0}
    for name, groups in frontier.even(known).items():
        assert np.allclose(groups.rows, known[name].mean) and len(groups.cols) == len(known[name].cols)


def test_a_shuffle_keeps_the_numbers_and_moves_them(known: dict[str, Groups]):
    moved = [frontier.shuffled(known, seed) for seed in (0, 0, 1)]
    own = sorted(known["a"].rows / known["a"].mean)
    assert np.allclose(sorted(moved[0]["a"].rows / moved[0]["a"].mean), own)
    assert (moved[0]["a"].rows == moved[1]["a"].rows).all() and (moved[0]["a"].rows != moved[2]["a"].rows).any()
    assert sorted(g.mean for g in moved[0].values()) == pytest.approx(sorted(g.mean for g in known.values()))


def test_steps_by_magnitude_are_in_proportion_to_the_weights(known: dict[str, Groups]):
    w = torch.from_numpy(gaussian(16, 8))
    (small, large) = (frontier.by_magnitude({"a": factor * w}, {"a": known["a"]})["a"] for factor in (1, 4))
    np.testing.assert_allclose(np.sqrt(small.rows / large.rows), 4, rtol=1e-5)
    assert np.argmin(small.rows) == int(w.square().mean(1).argmax())


def test_sensitivities_agree_with_themselves_and_not_with_a_shuffle(known: dict[str, Groups]):
    assert frontier.agreement(known, known) == pytest.approx({"matrices": 1, "rows": 1, "columns": 1})
    assert frontier.agreement(known, frontier.shuffled(known, 3))["rows"] < 0.7


def test_bytes_at_a_loss_lie_on_the_line_in_the_log_of_the_loss():
    sizes, losses = [400, 200, 300], [0.001, 0.1, 0.01]
    assert frontier.bytes_at_loss(sizes, losses, 0.01) == pytest.approx(300)
    assert frontier.bytes_at_loss(sizes, losses, math.sqrt(0.001 * 0.01)) == pytest.approx(350)
    assert math.isnan(frontier.bytes_at_loss(sizes, losses, 0.5))  # smaller than anything measured
    assert math.isnan(frontier.bytes_at_loss(sizes, losses, 1e-5))  # better than anything measured


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: none/recipe.json does not exist"),
        (["--shares", "1,x"], "'1,x' is not a list of sizes over int6's, as 0.5,0.7"),
        (["--targets", "-5"], "'-5' is not a whole number of at least 1"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_line(words: list[str], said: str, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["frontier", "none", "--out", "o", *words])
    with pytest.raises(SystemExit) as raised:
        runpy.run_path(frontier.__file__, run_name="__main__")
    assert said in f"{raised.value} {capsys.readouterr().err}"


def test_savings_compare_every_file_without_steps_with_the_curve_of_its_own_seed():
    rows = [
        *({"seed": s, "method": frontier.OURS, "file_bytes": b, "bpb_lost": l * s} for s in (1, 2)
          for b, l in ((400, 0.001), (300, 0.01), (200, 0.1))),
        *({"seed": s, "method": "PR 315's int6", "file_bytes": 600, "bpb_lost": 0.01 * s} for s in (1, 2)),
        {"seed": 1, "method": "one step", "file_bytes": 500, "bpb_lost": 0.01},
    ]  # fmt: skip
    table = pd.DataFrame(rows).assign(target=1)
    saved = frontier.savings(table)
    (axes,) = frontier.figure(table).axes
    assert axes.get_yscale() == "log" and len(axes.lines) == table["method"].nunique()
    assert saved["bytes_by_gradient"].tolist() == pytest.approx([300, 300])
    assert saved["saved"].tolist() == pytest.approx([0.5, 0.5])
    assert frontier.savings(table, by=frontier.CORRECTED)["saved"].isna().all(), "left out by --methods"
