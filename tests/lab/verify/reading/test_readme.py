"""README: any score of a seed's logs is its own, means are of the cells above them, and the rest is wrong."""

from pathlib import Path

import pytest
from published import foreign, late_log, table
from reviewing import shows

from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS, UNKNOWN, judge
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.claims import Judged
from pgolf_core.lab.verify.reading.readme import readme_numbers, tables

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
HEAD = "| Seed | Pre-quant val_bpb | Post-quant val_bpb | Post-TTT val_bpb | Steps | Artifact |"


def changed(old: str, new: str, *more: str) -> str:
    text = table(HEAD, *ROWS, MEAN, *more)
    assert old in text
    return text.replace(old, new)


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
    ],
)
def test_a_cell_is_any_score_of_its_seeds_logs_and_a_mean_is_of_the_cells_above_it(
    tmp_path: Path, readme: str, verdict: str, why: str
):
    folder = foreign(tmp_path / "track_10min_16mb" / "one", LOGS, {"val_bpb": 1.06108, "seeds": [42, 0, 1234]}, readme)
    shows(judge("it", readme_numbers, Judged(folder, How())), verdict, why)


def test_a_cell_may_be_of_another_log_of_its_seed(tmp_path: Path):
    rerun = {"train_seed42_rerun.log": late_log(42, {"quantized_ttt_phased": ("2.3", "1.06083288")})}
    readme = table("| Seed | Post-TTT BPB |", "| 42 | 1.05989454 |") + "\n" + table(
        "| Seed | Post-TTT BPB (re-run) |", "| 42 | 1.06083288 |")  # fmt: skip
    folder = foreign(tmp_path / "one", LOGS | rerun, {"seed_results": {"42": {"val_bpb": 1.05989454}}}, readme)
    assert readme_numbers(Judged(folder, How())).startswith("cells that agree: 2 logged")


def test_tables_are_found_with_their_marks_removed():
    text = "a | b\n---|---\n**1** | `2\\|3`\n\n| c |\n|:-:|\n\n| no table |\n"
    assert list(tables(text)) == [(["a", "b"], [["1", "2|3"]]), (["c"], [])]
