"""The seven notebooks, run by the real runner on a tiny recipe and the real corpus: one seed, start to report."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pgolf_core.base.files import UserError, read_json
from pgolf_core.lab.record import notebooks
from pgolf_core.lab.record.folder import Run, RunRequest
from pgolf_core.lab.record.kernels import prepared
from pgolf_core.lab.record.notebooks import record

TINY = Path(__file__).resolve().parents[1] / "helpers" / "tiny.toml"
SEED = 1
WALL: dict[int | None, float] = {}
"""Seconds of every seed's notebooks, as the runner saw them."""


@pytest.fixture(scope="module")
def request_of(sotu, tmp_path_factory: pytest.TempPathFactory) -> RunRequest:
    return RunRequest(str(TINY), runs_dir=tmp_path_factory.mktemp("runs"), cache_dir=sotu.folder.parent.parent)


@pytest.fixture(scope="module")
def folder(request_of: RunRequest) -> Iterator[Path]:
    """The recipe's run folder after `pgolf record` of one seed."""
    run_notebook = notebooks.run_notebook

    def timed(run: Run, *arguments: Any, **options: Any) -> None:
        t_start = time.monotonic()
        run_notebook(run, *arguments, **options)
        WALL[run.seed] = WALL.get(run.seed, 0.0) + time.monotonic() - t_start

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # in kernels too: a second thread waits for a core that others use
        patch.setattr(notebooks, "run_notebook", timed)
        with prepared():
            yield record(request_of, [SEED]).parent


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "05", "06", "07"])
def test_each_notebook_ran_without_error_or_warning_and_shows_its_figures(folder: Path, number: str) -> None:
    (path,) = [*folder.glob(f"notebooks/{number}_*.ipynb"), *folder.glob(f"seed1/notebooks/{number}_*.ipynb")]
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not any(output.output_type == "error" for output in outputs)
    assert not any("Warning" in output.text for output in outputs if output.get("name") == "stderr")
    assert "injected-parameters" in str([cell.metadata.get("tags") for cell in cells])


def test_a_seeds_result_and_report_hold_what_is_promised_and_its_seconds_are_the_wall_time(folder: Path) -> None:
    """As the runner saw the time; what is left is the last kernel's end, after result.json."""
    check_seed(folder, SEED)
    result = folder / f"seed{SEED}" / "result.json"
    after = (result.parent / "notebooks" / "06_sliding_eval.ipynb").stat().st_mtime - result.stat().st_mtime
    total = read_json(result)["seconds"]["total"]
    assert abs(WALL[SEED] - after - total) < max(2.0, 0.02 * WALL[SEED])


def check_seed(folder: Path, seed: int) -> None:
    result = read_json(folder / f"seed{seed}" / "result.json")
    assert {"raw_bpb", "averaged_bpb", "parameters", "recipe_sha256", "data_sha256", "core_sha256"} <= result.keys()
    assert result["seed"] == seed and result["steps"] == 20 and result["tokens"] == 20 * 1024
    assert result["artifact_bytes"] == (folder / f"seed{seed}" / "model.pgolf").stat().st_size
    assert result["total_bytes"] == result["artifact_bytes"] + result["code_bytes"] <= 1_000_000
    assert result["val_bytes"] == 854_885 and 1.0 < result["sliding_bpb"] < result["roundtrip_bpb"] < 4.0
    total, parts = result["seconds"].pop("total"), result["seconds"]
    assert abs(sum(parts.values()) - total) < 1e-6 and min(parts.values()) >= 0
    assert set(parts) == {
        "data", "warmup", "train", "validation", "averaging", "packing", "scoring", "checkpoints", "lost", "notebooks",
    }  # fmt: skip
    assert parts["lost"] == 0.0 and result["resumed_at_steps"] == []
    bpb = f"{read_json(folder / 'summary.json')['sliding_bpb']['seeds'][str(seed)]:.4f}"
    html, markdown = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert bpb in html and bpb in markdown and "American Presidency Project" in html and "ampled" in html


def marks(folder: Path) -> dict[Path, int]:
    """When each stage was finished, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in (*folder.glob("stages/*"), *folder.glob("seed*/stages/*"))}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_second_seed_joins_finished_stages_are_skipped_and_a_lost_one_is_redone(folder: Path, request_of) -> None:
    def redone() -> set[str]:
        before = marks(folder)
        record(request_of, [1, 2])
        after = marks(folder)
        return {path.name for path in before if before[path] != after[path]}

    lost = folder / "seed2" / "stages" / "06_sliding_eval.json"
    assert redone() == {"07_report.json"}
    for seed in (1, 2):
        check_seed(folder, seed)
    assert redone() == set()
    lost.unlink()
    assert redone() == {"07_report.json"} and lost.exists()


@pytest.mark.slow
def test_a_recipe_over_the_cap_fails_with_the_numbers(folder: Path, request_of: RunRequest) -> None:
    too_big = ("model.mlp_hidden=4000", "quant.mlp=fp16", "schedule.iterations=1")
    with pytest.raises(UserError) as caught:
        record(dataclasses.replace(request_of, overrides=too_big), [1])
    message = str(caught.value)
    assert "05_quantize" in message and "1,000,000" in message and "\n\n" not in message
