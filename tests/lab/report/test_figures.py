"""The figures of a report: each with its numbers, those of the notebooks' tables too, and what a tensor stores."""

import math

import pandas as pd
import pytest
from refused import refused
from report_run import RUN_SEEDS

from pgolf_core.lab.report.figures import draw_figures, grid_rows, tensor_table
from pgolf_core.lab.report.reading import read_seed
from pgolf_core.packing.ledger import Ledger
from pgolf_core.result import Result

POSITION = "score,middle,targets,bpb,share\nround-trip,1.0,580,2.25,0.1\nsliding,1.0,9,2.2,0.1\n"
PACKINGS = 'packing,file_bytes,bits,bpb_lost\n"float32, not packed",,32.0,0.0\nint6_row,759413,5.6,'


@pytest.fixture
def with_tables(run):
    """The run with the tables that its notebooks leave."""
    for seed in RUN_SEEDS:
        folder = run / f"seed{seed}" / "figures"
        folder.mkdir()
        (folder / "06-position.csv").write_text(POSITION)
        (folder / "05-rate.csv").write_text(f"{PACKINGS}{seed / 1e6}\n")
    return run


def test_figures_lie_beside_the_report_with_their_numbers(written):
    for figure in written.figures:
        assert figure.stat().st_size > 1000 and f"](figures/{figure.name})" in written.markdown.read_text()
        assert not pd.read_csv(figure.with_suffix(".csv")).empty
    folder = written.html.parent
    result = Result.read(folder / "seed1338" / "result.json")
    ledger = pd.read_csv(folder / "figures" / "ledger.csv", index_col="seed")
    assert ledger.loc[1338, ["weights", "scales", "header", "code"]].sum() == result.total_bytes
    seeds = pd.read_csv(folder / "figures" / "seeds.csv", index_col="seed")
    assert seeds.loc[1338, "sliding"] == pytest.approx(result.sliding_bpb)


def test_tables_that_the_notebooks_left_become_figures_with_every_seeds_numbers(with_tables, tmp_path):
    runs = {seed: read_seed(with_tables, seed) for seed in RUN_SEEDS}
    drawn = draw_figures(tmp_path / "drawn", runs, with_tables)
    assert list(drawn) == ["seeds", "curves", "bytes", "ledger", "tensors", "position", "packings"]
    position = pd.read_csv(tmp_path / "drawn" / "position.csv")
    assert position["seed"].tolist() == [seed for seed in RUN_SEEDS for _ in range(2)]
    assert position["bpb"].tolist() == 3 * [2.25, 2.2]
    packings = pd.read_csv(tmp_path / "drawn" / "packings.csv")
    assert packings["bpb_lost"].tolist() == [seed / 1e6 for seed in RUN_SEEDS], "what is not packed has no bytes"


def test_a_damaged_table_is_named_with_its_remedy(with_tables, tmp_path):
    (with_tables / "seed1338" / "figures" / "06-position.csv").write_text("score,middle\nround-trip,many\n")
    runs = {seed: read_seed(with_tables, seed) for seed in RUN_SEEDS}
    with refused(r"seed1338/figures/06-position\.csv is not the table .*; run it again"):
        draw_figures(tmp_path / "drawn", runs, with_tables)


ROWS = [
    {"name": "tok_emb.weight", "grid": "fp16", "shape": [8, 4], "raw_bytes": 64, "scales_raw_bytes": 0,
     "compressed_bytes": None},
    {"name": "blocks.3.mlp.fc.weight", "grid": "int6_row", "shape": [16, 4], "raw_bytes": 64,
     "scales_raw_bytes": 32, "compressed_bytes": 40},
    {"name": "blocks.0.attn_scale", "grid": "fp16", "shape": [16], "raw_bytes": 32, "scales_raw_bytes": 0,
     "compressed_bytes": None},
]  # fmt: skip
LEDGER = Ledger(
    weights_bytes=130, fp16_bytes=90, scales_bytes=20, header_bytes=5, file_bytes=155, code_bytes=1, total_bytes=156,
    cap_bytes=999, tensors=[row | {"elements": math.prod(row["shape"]), "entropy_bytes": 30} for row in ROWS],
)  # fmt: skip


def test_stored_bits_of_the_tensors_add_up_to_weights_and_scales():
    table = tensor_table(LEDGER).set_index("name")
    assert table["stored_bytes"].tolist() == [60, 60, 30], "fp16 tensors share their stream by size"
    assert table["stored_bits"].tolist() == [15, 7.5, 15]
    assert table["kind"].tolist() == ["tok_emb", "mlp.fc", "vectors and scalars"]
    assert table["layer"].fillna(-1).tolist() == [-1, 3, 0]


def test_tensors_are_gathered_by_grid():
    assert grid_rows(LEDGER) == [["fp16", "2", "48", "96", "60", "10.00"], ["int6_row", "1", "64", "64", "30", "3.75"]]
