"""A run beside the published records: no difference on another text, differences and the rule on theirs."""

import math

import pandas as pd
import pytest
from report_run import RUN_SEEDS
from run_folder import TARGETS, as_recipe, change, seed_result

from pgolf_core.lab.report import beside_records
from pgolf_core.lab.report.report import write_report


def test_on_another_text_the_records_stand_beside_the_run_without_any_difference(written):
    note = written.markdown.read_text()
    assert "The scores do not compare" in note and "854,885 bytes of sotu-sp1024" in note and "rule p" not in note
    assert "| pr315 (merged) | sliding | 3 | 1.1250 | 0.0002 | 7,058 | 15,639,340 |" in note
    assert "| pr534 (closed) | round-trip | 1 | 1.1804 | – |" in note
    table = pd.read_csv(written.html.parent / "figures" / "published.csv").set_index("run")
    assert table["difference"].isna().all() and len(table) == 9
    own = table.loc["this run"]
    assert own["by_sliding"] == pytest.approx(-0.01) and own["raw_to_packed"] == pytest.approx(-0.04)
    # PR 315: 1.12484502, 1.12498291, 1.12526734 sliding against 1.14845684, 1.14862389, 1.14869399 side by side
    assert table.loc["pr315 (merged)", "by_sliding"] == pytest.approx(-0.02355982, abs=1e-8)
    assert table.loc["pr315 (merged)", "bits_per_weight"] == pytest.approx(8 * 15_525_821 / 26_829_913)


def test_on_their_track_but_another_text_no_published_seed_lies_beside_the_run(run):
    as_recipe(run, ['track="10min_16mb"'])
    note = write_report(run, RUN_SEEDS).markdown.read_text()
    assert "The scores do not compare" in note and "lie beside it" not in note
    assert set(pd.read_csv(run / "figures" / "bytes.csv")["run"]) == {"this run"}


def test_on_the_records_text_differences_and_the_rule_are_given_for_the_reports_seeds_alone(run):
    targets, size = 62_021_632, 151_080_363
    for seed in RUN_SEEDS:
        values = {"val_targets": targets, "val_bytes": size, "raw_targets": targets}
        for score in ("raw", "averaged", "roundtrip", "sliding"):
            bpb = 1.10 + (seed - 1337) / 1000
            values |= {f"{score}_bpb": bpb, f"{score}_loss": bpb * math.log(2) * size / targets}
        change(run / f"seed{seed}" / "result.json", **values)
        told = {
            kind: {"bpb": bpb, "loss_nats_per_token": values["raw_loss"], "tokens": targets}
            for kind in ("raw", "averaged")
        }
        change(run / f"seed{seed}" / "averaging.json", **told)
    as_recipe(run, ['track="10min_16mb"'])
    change(run / "data.json", val_bytes=size)
    note = write_report(run, RUN_SEEDS[:2]).markdown.read_text()
    table = pd.read_csv(run / "figures" / "published.csv").set_index("run")
    # PR 315's mean is 1.12503; one seed is shared, so Welch
    assert table.loc["pr315 (merged)", "difference"] == pytest.approx(1.1005 - 1.12503, abs=1e-4)
    assert "rule p" in note and "is met against" in note and "do not compare" not in note
    assert "The published seeds lie beside it." in note
    points = pd.read_csv(run / "figures" / "bytes.csv")
    assert set(points["run"]) == {"this run", "pr194", "pr315", "pr332", "pr531", "pr1493"}
    assert len(points) == 2 + 3 + 3 + 3 + 2 + 3


@pytest.mark.parametrize(
    "raw_targets, cost", [(TARGETS, pytest.approx(-0.04)), (None, pytest.approx(-0.04)), (9, None)]
)
def test_what_packing_costs_is_told_only_where_every_seed_scored_its_raw_weights_on_the_whole_split(raw_targets, cost):
    results = {1: seed_result(1, 2.0), 2: seed_result(2, 2.1, raw_targets=raw_targets)}
    assert beside_records._own(results)["raw_to_packed"] == cost
