"""The summary and the table of a recipe's seeds."""

import functools
import json
import re
import statistics

import pytest
from refused import refused
from report_run import RUN_SEEDS
from run_folder import change, seed_result
from tiny_data import edit

from pgolf_core.base.files import UserError
from pgolf_core.lab.report.report import write_report
from pgolf_core.lab.report.seeds import NUMBERS, given_seeds, read_summary, seeds_table_text, summarise_seeds


def test_summary_holds_mean_std_n_and_every_seed(written):
    summary = json.loads(written.summary.read_text())
    assert summary["n"] == 3 and summary["seeds"] == RUN_SEEDS and summary["recipe"] == "local-smoke"
    assert summary["sliding_bpb"]["mean"] == pytest.approx(1.7661) and summary["sliding_bpb"]["n"] == 3
    assert summary["sliding_bpb"]["std"] == pytest.approx(0.0031)  # equally spaced by 0.0031: std is the spacing
    assert list(summary["sliding_bpb"]["seeds"].values()) == pytest.approx([1.763, 1.7661, 1.7692])
    assert summary["steps"]["std"] == pytest.approx(statistics.stdev([407, 408, 409]))
    assert summary["seconds"]["warmup"]["mean"] == 20.0 and summary["whole_seconds"]["mean"] == pytest.approx(150.5031)
    always = set(NUMBERS) - {"over_cap_seconds", "adapted_bpb", "adapted_loss"}
    assert {*always, "recipe_sha256", "track", "confidence"} <= set(summary)


def test_seeds_of_different_code_are_not_averaged_and_a_number_that_no_seed_has_is_left_out():
    with refused("seeds 1 and 2 differ in core_sha256"):
        summarise_seeds({1: seed_result(1, 2.0), 2: seed_result(2, 2.0, core_sha256="new")})
    assert "raw_targets" not in summarise_seeds({1: seed_result(1, 2.0, raw_targets=None)})


@pytest.mark.parametrize(("place", "value", "told"), [
    (("sliding_bpb", "mean"), 1.7, "sliding_bpb.mean"), (("seeds",), [1337], "n"),
    (("sliding_bpb", "seeds", "1338"), 1.7, "sliding_bpb.seeds.1338"), (("seeds",), None, "seeds None must be a list"),
])  # fmt: skip
def test_a_summary_that_is_not_its_seeds_own_is_refused_by_the_number(run, place, value, told):
    path = write_report(run, RUN_SEEDS).summary
    assert read_summary(run) == json.loads(path.read_text())
    edit(path, lambda summary: functools.reduce(dict.__getitem__, place[:-1], summary).update({place[-1]: value}))
    with pytest.raises(UserError, match=rf"summary\.json .*{re.escape(told)}.*; delete it, and the same `pgolf record"):
        read_summary(run)
    write_report(run, RUN_SEEDS)
    change(run / "seed1338" / "env.json", hashes={})
    with pytest.raises(UserError, match=r"env\.json has other hashes"):
        read_summary(run)


def test_the_terminals_tables_fit_80_columns_and_end_with_mean_std_and_half_the_interval(written):
    text = seeds_table_text(json.loads(written.summary.read_text()))
    scores, costs = (table.splitlines() for table in text.split("\n\n"))
    assert max(map(len, text.splitlines())) <= 80
    assert scores[0].split()[:3] == ["seed", "steps", "raw"] and scores[2].split()[0] == "1337"
    assert scores[-3].split()[:2] == ["mean", "408.0"] and scores[-2].split()[:2] == ["std", "1.0"]
    assert scores[-1].split()[:3] == ["±", "95%", "2.5"]  # t(0.975, 2) = 4.303, times 1 / sqrt(3)
    assert costs[2].split() == ["1337", "801,337", "100,000", "901,337", "100.0", "150.5"]


def test_a_seed_that_trained_beyond_its_recipes_cap_is_named_below_the_table():
    results = {1: seed_result(1, 2.0), 2: seed_result(2, 2.0, over_cap_seconds=2.8)}
    said = "Over the recipe's cap on training, and so not to be counted: seed 2 by 2.80 s."
    assert seeds_table_text(summarise_seeds(results)).endswith(f"\n\n{said}")
    del results[2]
    assert "cap" not in seeds_table_text(summarise_seeds(results))


def test_frozen_and_adapted_scores_stand_side_by_side_and_what_adapting_is_stands_below():
    adapted = {"adapted_bpb": 1.9, "adapted_loss": 1.9 * seed_result(1, 2.0).sliding_loss / 2}
    text = seeds_table_text(summarise_seeds({seed: seed_result(seed, 2.0, **adapted) for seed in (1, 2)}))
    header, _, row, *_ = text.splitlines()
    assert header.endswith("sliding (frozen)  adapted") and row.split()[-2:] == ["2.0000", "1.9000"]
    assert "text is scored first" in text and "nothing is learned from what has no score" in text
    assert max(map(len, text.splitlines())) <= 80


def test_seeds_may_be_one_number_or_text_as_papermill_gives_them():
    for given in ("7,8", "7 8", "7 8\n", "[7, 8]", (7, 8)):
        assert given_seeds(given) == [7, 8]
    assert given_seeds(7) == given_seeds("7") == [7]
    for wrong in ("x", "7.5", "", -1, True, [], [1.5], 7.0, [7, 7], None):
        with refused(r"seeds .* must be a list of whole numbers, as \[1337, 1338\]"):
            given_seeds(wrong)
