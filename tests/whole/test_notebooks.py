"""The seven notebooks, run by the real runner on a tiny recipe and the real corpus: one seed, start to report."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pgolf_core.base.files import UserError
from pgolf_core.lab.record import notebooks
from pgolf_core.lab.record.folder import Run, RunRequest
from pgolf_core.lab.record.notebooks import record

TINY = Path(__file__).resolve().parents[1] / "helpers" / "tiny.toml"
SEED = 1
WALL: dict[int | None, float] = {}
"""Seconds of every seed's notebooks, as the runner saw them."""


@pytest.fixture(scope="module")
def request_of(sotu, tmp_path_factory: pytest.TempPathFactory) -> RunRequest:
    return RunRequest(str(TINY), runs_dir=tmp_path_factory.mktemp("runs"), cache_dir=sotu.folder.parent.parent)


@pytest.fixture(scope="module")
def folder(request_of: RunRequest) -> Path:
    """The recipe's run folder after `pgolf record` of one seed."""
    run_notebook = notebooks.run_notebook

    def timed(run: Run, *arguments: Any, **options: Any) -> None:
        t_start = time.monotonic()
        run_notebook(run, *arguments, **options)
        WALL[run.seed] = WALL.get(run.seed, 0.0) + time.monotonic() - t_start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "run_notebook", timed)
        return record(request_of, [SEED], progress=False).parent


def test_every_stage_left_its_notebook_without_an_error(folder: Path) -> None:
    executed = [*folder.glob("notebooks/*.ipynb"), *folder.glob("seed*/notebooks/*.ipynb")]
    assert len(executed) == 3 + 4
    for path in executed:
        notebook = nbformat.read(path, as_version=4)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert outputs and not any(output.output_type == "error" for output in outputs), path.name
        assert "injected-parameters" in str([cell.metadata.get("tags") for cell in notebook.cells])


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "05", "06", "07"])
def test_each_notebook_shows_figures_and_keeps_their_numbers(folder: Path, number: str) -> None:
    (path, *_) = [*folder.glob(f"notebooks/{number}_*.ipynb"), *folder.glob(f"seed1/notebooks/{number}_*.ipynb")]
    notebook = nbformat.read(path, as_version=4)
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3, path.name
    stderr = [o.text for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not any("Warning" in text for text in stderr), path.name


def test_a_seeds_result_holds_what_the_design_promises(folder: Path) -> None:
    check_result(folder, SEED)


def check_result(folder: Path, seed: int) -> None:
    result = json.loads((folder / f"seed{seed}" / "result.json").read_text())
    promised = {
        "raw_bpb", "averaged_bpb", "roundtrip_bpb", "sliding_bpb", "artifact_bytes", "code_bytes", "total_bytes",
        "parameters", "steps", "tokens", "seconds", "recipe_sha256", "data_sha256", "core_sha256",
    }  # fmt: skip
    assert promised <= result.keys()
    assert result["seed"] == seed and result["steps"] == 20 and result["tokens"] == 20 * 1024
    assert result["artifact_bytes"] == (folder / f"seed{seed}" / "model.pgolf").stat().st_size
    assert result["total_bytes"] == result["artifact_bytes"] + result["code_bytes"] <= 1_000_000
    assert result["val_bytes"] == 854_885
    assert 1.0 < result["sliding_bpb"] < result["roundtrip_bpb"] < 4.0
    parts = {key: value for key, value in result["seconds"].items() if key != "total"}
    assert abs(sum(parts.values()) - result["seconds"]["total"]) < 1e-6 and min(parts.values()) >= 0
    assert set(parts) == {
        "data", "warmup", "train", "validation", "averaging", "packing", "scoring", "checkpoints", "lost", "notebooks",
    }  # fmt: skip
    assert parts["lost"] == 0.0 and result["resumed_at_steps"] == []


def test_a_seeds_seconds_add_up_to_the_wall_time_of_its_stages(folder: Path) -> None:
    """As the runner saw it; what is left is the last kernel's end, after result.json."""
    seed = SEED
    total = json.loads((folder / f"seed{seed}" / "result.json").read_text())["seconds"]["total"]
    last = (folder / f"seed{seed}" / "notebooks" / "06_sliding_eval.ipynb").stat().st_mtime
    after = last - (folder / f"seed{seed}" / "result.json").stat().st_mtime
    assert abs(WALL[seed] - after - total) < max(2.0, 0.02 * WALL[seed])


def test_the_report_is_there_with_the_seed(folder: Path) -> None:
    check_report(folder, [SEED])


def check_report(folder: Path, seeds: list[int]) -> None:
    html, markdown = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    summary = json.loads((folder / "summary.json").read_text())
    for seed in seeds:
        bpb = f"{summary['sliding_bpb']['seeds'][str(seed)]:.4f}"
        assert bpb in html and bpb in markdown
    assert "American Presidency Project" in html and "ampled" in html


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_second_seed_joins_finished_stages_are_skipped_and_a_lost_one_is_redone(folder: Path, request_of) -> None:
    marks = sorted([*folder.glob("stages/*.json"), *folder.glob("seed*/stages/*.json")])
    before = {path: path.stat().st_mtime_ns for path in marks}
    record(request_of, [1, 2], progress=False)
    assert {path.name for path in marks if path.stat().st_mtime_ns != before[path]} == {"07_report.json"}
    for seed in (1, 2):
        check_result(folder, seed)
    check_report(folder, [1, 2])

    marks = sorted([*folder.glob("stages/*.json"), *folder.glob("seed*/stages/*.json")])
    before = {path: path.stat().st_mtime_ns for path in marks}
    record(request_of, [1, 2], progress=False)
    assert {path: path.stat().st_mtime_ns for path in marks} == before
    (folder / "seed2" / "stages" / "06_sliding_eval.json").unlink()
    record(request_of, [1, 2], progress=False)
    redone = {path.name for path in marks if path.stat().st_mtime_ns != before[path]}
    assert redone == {"06_sliding_eval.json", "07_report.json"}


@pytest.mark.slow
def test_a_recipe_over_the_cap_fails_with_the_numbers(folder: Path, request_of: RunRequest) -> None:
    too_big = ("model.mlp_hidden=4000", "quant.mlp=fp16", "schedule.iterations=1")
    with pytest.raises(UserError) as caught:
        record(dataclasses.replace(request_of, overrides=too_big), [1], progress=False)
    message = str(caught.value)
    assert "05_quantize" in message and "1,000,000" in message and "\n\n" not in message
