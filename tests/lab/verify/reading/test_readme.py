"""README: any score of a seed's logs is its own, means are of the cells above them, and the rest is wrong.

What of lists and prose is another's is passed over, and what is neither is named, which is no failure."""

from pathlib import Path

import pytest
from published import foreign, late_log, table
from reviewing import shows

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN, judge
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.claims import Judged
from pgolf_core.lab.verify.reading.readme import readme_numbers, readme_prose, tables

LOGS = {
    f"train_seed{seed}.log": late_log(
        seed, {"pre-quantization post-ema": ("2.3", early), "quantized": ("2.34", packed),
               "quantized_ttt_phased": (loss, ttt)}, steps=steps, model=total - 100)
    for seed, early, packed, loss, ttt, steps, total in (
        (42, "1.06395844", "1.07254371", "2.31944212", "1.05989454", 4945, 15_897_259),
        (0, "1.06544819", "1.07406724", "2.32239991", "1.06124613", 4932, 15_900_947),
        (1234, "1.06596989", "1.07477929", "2.32423994", "1.06208695", 4917, 15_907_550))
}  # fmt: skip
ROWS = ("| 42 | 1.06396 | 1.07254 | **1.05989** | 4,945 | 15,897,259 |",
        "| 0 | 1.06545 | 1.07407 | **1.06125** | 4,932 | 15,900,947 |",
        "| 1234 | 1.06597 | 1.07478 | **1.06209** | 4,917 | 15,907,550 |")  # fmt: skip
MEAN, SAMPLE = "| **Mean** | | | **1.06108** | **4,931** | 15,901,919 |", "| Std | | | 0.0011 | 14 | |"
TTT = ("1.05989", "1.06125", "1.06209")
HEAD = "| Seed | Pre-quant val_bpb | Post-quant val_bpb | Post-TTT val_bpb | Steps | Artifact |"


def changed(old: str, new: str, *more: str) -> str:
    text = table(HEAD, *ROWS, MEAN, *more)
    assert old in text
    return text.replace(old, new)


def columns(head: str, *cells: str) -> str:
    """A table of the three seeds with one column."""
    return table(f"| Seed | {head} |", *map("| {} | {} |".format, (42, 0, 1234), cells))


@pytest.mark.parametrize(
    ("readme", "verdict", "why"),
    [
        (changed("", ""), HOLDS, "cells that agree: 18 logged"),
        (
            changed("", "", "", HEAD.replace("42", ""), "|-|-|-|-|-|-|", ROWS[0], ROWS[0].replace("1.06", "1.07")),
            HOLDS,
            "18 logged; nor 2 rows of tables that have a seed twice",
        ),
        (changed("", "", SAMPLE), HOLDS, "cells that agree: 20 logged"),
        (changed("Std", "Std", SAMPLE.replace("0.0011", "0.00090")), HOLDS, "cells that agree: 20 logged"),
        (changed("Std", "Std", SAMPLE.replace("0.0011", "0.0021")), FAILS, "Std: adapted_bpb 0.0021"),
        (changed("**Mean**", "3-seed mean"), HOLDS, "cells that agree: 18 logged"),
        (changed("**1.06108**", "1.06108 ± 0.00090"), HOLDS, "cells that agree: 18 logged"),
        (changed("**1.06108**", "1.0613"), FAILS, "README.md, Mean: adapted_bpb 1.0613, the cells above have 1.061077"),
        (
            changed("**1.05989**", "1.05889"),
            FAILS,
            "42: adapted_bpb 1.05889, 1.05989454 logged as quantized_ttt_phased",
        ),
        (changed("4,932", "4,945"), FAILS, "README.md, 0: steps 4,945, 4932 logged"),
        (changed("| 15,900,947", "| 15,897,259"), HOLDS, "but 0: model_bytes 15,897,259 is seed 42's"),
        (changed("15,907,550", "15,907,550 bytes").replace(MEAN, ""), HOLDS, "cells that agree: 15 logged"),
        (table(HEAD, ROWS[0], ROWS[1].replace("15,900,947", "15,897,259")), HOLDS, "but 0: model_bytes 15,897,259"),
        (table(HEAD, *ROWS[:1], ROWS[1].replace("15,900,947", "15,900,946")), FAILS, "0: model_bytes 15,900,946"),
        (table("| Freeze | val_bpb |", "| 0 | 1.1 |", "| 42 | 1.2 |"), UNKNOWN, "no table of README.md has a number"),
        (table("| Seed | val_bpb |", "| 42 | 1.1 |", "| 42 | 1.2 |"), UNKNOWN, "no table of README.md has a number"),
        (table("| Seed | baseline val_bpb |", "| 42 | 1.1 |"), UNKNOWN, "no table of README.md has a number"),
        (table("| | val_bpb |", "| mean | 1.1 |"), UNKNOWN, "no table of README.md has a number"),
        (table("| | val_bpb |", "| seed 42 | 1.2 |"), FAILS, "seed 42: bpb 1.2, 1.05989454"),
        (changed("1.06545", "1.06445"), FAILS, "0: averaged_bpb 1.06445, 1.06544819 logged"),
        (columns("Blend (a=0.4)", *TTT), HOLDS, "cells that agree: 3 logged"),
        (columns("Blend (a=0.4)", TTT[0], "1.06215", TTT[2]), FAILS, "0: Blend (a=0.4) 1.06215, 1.06124613 logged"),
        (columns("Blend (a=0.4)", "1.04", "1.05", "1.06"), UNKNOWN, "no table of README.md has a number"),
        (columns("Sub size", "15,897,259", "15,900,947", "15,907,551"), FAILS, "1234: Sub size 15,907,551"),
        (columns("Train time", "588.1s", "588 s", "588.05s"), HOLDS, "cells that agree: 3 logged"),
        (columns("Train time", "588.1s", "598 s", "588.05s"), FAILS, "0: train_seconds 598, 588.050 logged"),
        (columns("Eval time", "121s", "121 s", "131s"), FAILS, "1234: eval_seconds 131, 121.000 logged"),
        (columns("Eval time", "200s", "201s", "202s"), UNKNOWN, "no table of README.md has a number"),
        (columns("TTT BPB", "1.0499", "1.0513", "1.0521"), FAILS, "42: adapted_bpb 1.0499"),
        (columns("TTT BPB (PR77)", "1.0499", "1.0513", "1.0521"), UNKNOWN, "no table of README.md has a number"),
        (
            changed("", "", "", HEAD, "|-|-|-|-|-|-|", "| 42 | 1.07 | 1.08 | 1.0712 | 4,511 | 15,800,000 |"),
            HOLDS,
            "18 logged; not compared, since of other columns: 5",
        ),
    ],
)
def test_a_cell_is_any_score_of_its_seeds_logs_and_a_mean_is_of_the_cells_above_it(
    tmp_path: Path, readme: str, verdict: str, why: str
):
    folder = foreign(tmp_path / "track_10min_16mb" / "one", LOGS, {"val_bpb": 1.06108, "seeds": [42, 0, 1234]}, readme)
    shows(judge("it", readme_numbers, Judged(folder, How())), verdict, why)


ONE = {"a.log": late_log(5, {"pre-quantization post-ema": ("2.3461", "1.0912"), "quantized": ("2.3612", "1.09841")})}
MEAN_OF_3 = "**val_bpb: 1.06108** (3-seed mean"
STRANGE = ", no number of this folder"


@pytest.mark.parametrize(
    ("logs", "prose", "verdict", "why"),
    [
        (LOGS, f"{MEAN_OF_3}, std 0.00111)", HOLDS, "1.06108 bpb"),
        (LOGS, f"{MEAN_OF_3}, std 0.0031)", UNKNOWN, f"names a spread of 0.0031{STRANGE}"),
        (LOGS, f"{MEAN_OF_3}) or 1.06108 ± 0.0031", UNKNOWN, "names a spread of 0.0031"),
        (LOGS, table("| | bpb | |", "| mean | 1.06108 (std 0.0031) | |"), UNKNOWN, "names a spread of 0.0031"),
        (LOGS, "val_bpb: ~1.061, packed 1.0738 BPP on average", HOLDS, "1.0738, 1.061 bpb"),
        (LOGS, "mean_val_bpb = 1.0611, delta_val_bpb: 0.0123, delta_val_bpb: 0.523", HOLDS, "1.0611 bpb"),
        (LOGS, "1.0641 bpb", UNKNOWN, f"names 1.0641 bpb{STRANGE}"),
        (LOGS, f"{MEAN_OF_3}): a gap of 0.0131 bpb, a 0.31 BPB improvement", HOLDS, "1.06108 bpb"),
        (LOGS, f"{MEAN_OF_3}); the leaderboard has 1.0711 bpb, [PR #7](x) (val_bpb 1.0722)", HOLDS, "1.06108 bpb"),
        (LOGS, "- Code size: 77 bytes\n", UNKNOWN, "names no score"),
        (ONE, "- Code: `100` bytes\n- Train time: 588050ms\n- Steps: 4,550 / 20,000\n", HOLDS, "3 numbers of lists"),
        (ONE, "- Code size: 77 bytes\n", UNKNOWN, f"names code_bytes 77 (100 logged){STRANGE}"),
        (ONE, "- Code size: 77 KB\n- Eval time: 200 s\n", UNKNOWN, "names no score"),
        ({}, "- val_bpb: 1.0711\n- packed int6 val_bpb: 1.0722\n", UNKNOWN, "1.0722 bpb, bpb 1.0711 (1.06108 in"),
        (ONE, "- Early: `val_loss:2.3461`, `val_bpb:1.0912`\n", HOLDS, "1.0912 bpb; 2 numbers"),
        (ONE, "- Late: `val_bpb:1.09841`, `val_loss:2.3612`\n", HOLDS, "1.09841 bpb; 2 numbers"),
        (ONE, "- Early: `val_loss:2.3561`, `val_bpb:1.0912`\n", UNKNOWN, "names other_loss 2.3561 (2.3612 logged"),
        (ONE, "- Pre-quant val_loss: 2.3561\n", UNKNOWN, "names averaged_loss 2.3561 (2.3461 logged"),
        (ONE, table("| Metric | Value |", "| Steps | 4,551 (600 s) |"), UNKNOWN, "names steps 4,551 (4550 logged)"),
        (ONE, "| Metric | Value |\n|-|-|\n| val_bpb (int6) | **1.0984** |\n", HOLDS, "1 number of lists"),
        (ONE, table("| Metric | Theirs | Ours |", "| Steps | 4,111 | 4,550 |"), UNKNOWN, "names no score"),
        (ONE, "1.0984 bpb\n## The baseline\n- Steps: 4,111\n- Peak: 2,000 MiB\n", HOLDS, "1.0984 bpb; 0 numbers"),
    ],
)  # fmt: skip
def test_numbers_outside_of_tables_of_seeds_are_the_folders_or_named(
    tmp_path: Path, logs: dict, prose: str, verdict: str, why: str
):
    claims = {"val_bpb": 1.09841 if logs is ONE else 1.06108}
    folder = foreign(tmp_path / "track_10min_16mb" / "one", logs, claims, prose)
    shows(judge("it", readme_prose, Judged(folder, How())), verdict, why)


def test_a_cell_may_be_of_another_log_of_its_seed(tmp_path: Path):
    rerun = {"train_seed42_rerun.log": late_log(42, {"quantized_ttt_phased": ("2.3", "1.06083288")})}
    readme = table("| Seed | Post-TTT BPB |", "| 42 | 1.05989454 |") + "\n" + table(
        "| Seed | Post-TTT BPB (re-run) |", "| 42 | 1.06083288 |")  # fmt: skip
    folder = foreign(tmp_path / "one", LOGS | rerun, {"seed_results": {"42": {"val_bpb": 1.05989454}}}, readme)
    assert readme_numbers(Judged(folder, How())).startswith("cells that agree: 2 logged")


def test_a_size_that_is_claimed_and_is_the_logs_total_is_logged(tmp_path: Path):
    logs = {name: text.replace("Serialized model quantized", "Packed") for name, text in LOGS.items()}
    claims = {"seed_results": {"42": {"artifact_bytes": 15_897_259}, "0": {"artifact_bytes": 15_900_947}}}
    readme = table("| Seed | Artifact |", "| 42 | 15,897,259 |", "| 0 | 15,900,947 |")
    assert (
        readme_numbers(Judged(foreign(tmp_path / "one", logs, claims, readme), How())) == "cells that agree: 2 logged"
    )


def test_tables_are_found_with_their_marks_removed():
    text = "a | b\n---|---\n**1** | `2\\|3`\n\n| c |\n|:-:|\n\n| no table |\n"
    assert list(tables(text)) == [(["a", "b"], [["1", "2|3"]]), (["c"], [])]
