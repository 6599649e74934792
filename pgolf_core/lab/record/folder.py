"""Run folders: where a run's files lie, which recipe, data and core made them, and which stages are finished."""

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pgolf_core.base.files import UserError, explain_os_errors, read_json, write_json
from pgolf_core.base.names import ARTIFACT, AVERAGED_WEIGHTS, CHECKPOINT, METRICS, SEED_RESULT, TRAIN_LOG, TRAIN_RESULT
from pgolf_core.base.strict import build
from pgolf_core.lab.compare.agreement import FILE_HASHES, file_hashes
from pgolf_core.lab.compare.results import json_object, read_object
from pgolf_core.lab.data.dataset import Dataset, is_sotu_name, open_dataset
from pgolf_core.lab.record.lock import HOLDER_NAME, LOCK_NAME
from pgolf_core.lab.shared.places import (
    AVERAGING_FILE,
    DATA_FILE,
    ENV_FILE,
    LEDGER_FILE,
    RECIPE_FILE,
    REPORT,
    SCRIPT,
    SEED_FOLDER,
    SUMMARY_FILE,
    core_sha256,
    find_root,
    short_path,
)
from pgolf_core.lab.shared.settings import check_seed, flatten, given_overrides
from pgolf_core.lab.shared.tables import so_many
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe, to_dict
from pgolf_core.text.tokenizer import check_vocab, need_bos
from pgolf_core.training import progress

ATTEMPT = "stages/attempt.json"
"""When the stage that is being tried began; a stage that finishes takes it away. One that is still there speaks of an
attempt that a signal, a failure or a kill has ended."""

STAGE_BEGAN = "PGOLF_STAGE_BEGAN"
"""The runner tells a stage's kernel since when its seconds count (by time.monotonic, one clock for all processes)."""
RESTART = "slurm-restart.json"
REMEDY = "--fresh redoes it, --name NAME keeps both"
VERSIONED = ("torch", "numpy", "sentencepiece", "zstandard", "safetensors", "constriction", "papermill")
NOT_NEEDED = ("brotli",)
"""Versioned where they are installed: a recipe may ask for them."""


@dataclass(frozen=True)
class Stage:
    """One notebook of the run."""

    name: str
    """The notebook's file name without .ipynb; its number orders the stages."""
    per: str
    """recipe (once), seed (once a seed) or report (once, after all seeds)."""
    result: str
    """File in the stage's folder without which the stage cannot have finished."""
    leaves: tuple[str, ...] = ()
    """Others that nothing changes after it; its mark has the hashes of all."""


STAGES = (
    Stage("01_data_and_metric", "recipe", DATA_FILE),
    Stage("02_architecture", "recipe", "architecture.json", (RECIPE_FILE, SCRIPT)),
    Stage("03_train", "seed", AVERAGED_WEIGHTS, (RECIPE_FILE,)),
    Stage("04_average_and_qat", "seed", AVERAGING_FILE),
    Stage("05_quantize", "seed", LEDGER_FILE, (ARTIFACT, "figures/05-rate.csv")),
    Stage("06_sliding_eval", "seed", SEED_RESULT, (TRAIN_LOG, METRICS, ENV_FILE, "figures/06-position.csv")),
    Stage("07_report", "report", "report.html", (SUMMARY_FILE, REPORT)),
)


@dataclass(frozen=True)
class RunRequest:
    """Which run is asked for, in the words of a notebook's parameters and of the command line."""

    recipe: str
    """A recipe's name, or a path ending in .toml."""
    overrides: tuple[str, ...] = ()
    """Changes of single keys, as `model.num_layers=12`."""
    seed: int | None = None
    """None means the recipe's own folder, for the stages that run once a recipe."""
    data: str = ""
    """A prepared dataset instead of the recipe's own."""
    runs_dir: str | Path = "runs"
    """A relative one is taken from the repository's root."""
    name: str = ""
    """The folder's name instead of the recipe's."""
    cache_dir: str | Path = ""
    fresh: bool = False
    """Earlier results are deleted first."""
    processes: int = 1
    """How many train together on this machine."""

    def parameters(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The parameters of a notebook that is run for these seeds, or for this request's own of them."""
        return {
            "recipe": self.recipe, "overrides": list(self.overrides), "seeds": list(seeds),
            "seed": seeds[0] if self.seed is None else self.seed, "data": self.data,
            "runs_dir": str(self.runs_dir), "name": self.name, "cache_dir": str(self.cache_dir),
        }  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One recipe on one dataset in one folder; with a seed, that seed's folder."""

    recipe: Recipe
    seed: int | None
    dataset: Dataset
    folder: Path
    """The seed's folder, or the recipe's for stages that run once a recipe."""
    recipe_folder: Path
    t_start: float = field(default_factory=time.monotonic, compare=False)
    """Monotonic clock when the run was opened."""

    @property
    def label(self) -> str:
        """The folder relative to the repository where it lies inside it: for messages and titles."""
        return short_path(self.folder)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The recipe's folder, and the seed's if there is a seed."""
        return tuple(dict.fromkeys((self.recipe_folder, self.folder)))

    def elapsed_seconds(self) -> float:
        """Seconds of this attempt at a stage: since the runner began it; in a notebook opened by hand since then."""
        began = os.environ.get(STAGE_BEGAN)
        return time.monotonic() - (float(began) if began else self.t_start)  # one clock for all, which nobody sets

    def lost_seconds(self) -> float:
        """Seconds of attempts that did not finish the stage which is being tried now."""
        note = _attempt(self.folder / ATTEMPT)
        return note.lost if note else 0.0


# ---------------------------------------------------------------------- opening


def locate_run(request: RunRequest) -> Run:
    """Resolve a run without writing anything.

    A run whose values differ from its recipe file's (overrides, another dataset) goes to
    `<recipe>+<8 hex of its fingerprint>`, or to the request's name. A dataset that is named brings its pieces with it,
    unless an override says another. UserError for bad input, and for a folder of another recipe, data or core.
    """
    base, seed, name = load_recipe(request.recipe), request.seed, request.name
    brought, changes = _dataset(request.data, request.cache_dir) if request.data else None, list(request.overrides)
    if brought:
        pieces = brought.manifest["tokenizer"]["vocab_size"]
        changes = [f"model.vocab_size={pieces}", *changes, f"data.dataset={json.dumps(request.data)}"]
    recipe = load_recipe(request.recipe, changes) if changes else base
    if seed is not None:
        check_seed(seed)
    if name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", name):
        raise UserError(f"--name '{name}' must be one folder's name of letters, digits and . _ + -")
    changed = recipe.fingerprint != base.fingerprint
    folder_name = name or (f"{base.name}+{recipe.fingerprint[:8]}" if changed else base.name)
    if SEED_FOLDER.fullmatch(folder_name):
        raise UserError(f"a run cannot be called '{folder_name}', as the folders of its seeds are; give another --name")
    dataset = brought or _dataset(recipe.data.dataset, request.cache_dir)
    check_vocab(dataset.manifest["tokenizer"]["vocab_size"], recipe.model.vocab_size, f"dataset {dataset.name}")
    dataset.check_bytes(recipe.data.bytes)
    need_bos(recipe, dataset.tokenizer().bos_id)
    recipe_folder = find_root() / Path(request.runs_dir).expanduser() / recipe.track / folder_name
    folder = recipe_folder if seed is None else recipe_folder / f"seed{seed}"
    run = Run(recipe, seed, dataset, folder, recipe_folder)
    if not request.fresh:
        for place in run.folders:
            _check_owner(run, place)
    return run


def _dataset(name: str, cache_dir: Path | str) -> Dataset:
    """A dataset by name; the State of the Union, in any number of pieces, is prepared where it is not there yet."""
    if not is_sotu_name(name):
        return open_dataset(name, cache_dir or None)
    from pgolf_core.lab.data.sotu import prepare_named  # with a tokenizer's trainer, which no other run waits for

    return prepare_named(name, cache_dir)


def open_run(recipe: str, overrides: Sequence[str] | str = (), **further: Any) -> Run:
    """Locate the run of a RunRequest, given field by field, and write recipe.json and env.json where they are missing.

    Every notebook begins with this. `fresh` deletes what the folder holds first (see `clear_run`).
    """
    for key in {"data", "runs_dir", "name", "cache_dir"} & further.keys():
        further[key] = str(further[key])  # papermill -p makes a number of a name that looks like one
    if isinstance(seed := further.get("seed"), str) and seed.isdecimal():
        further["seed"] = int(seed)  # and -r leaves numbers as text
    request = RunRequest(recipe, tuple(given_overrides(overrides)), **further)
    run = locate_run(request)
    if request.fresh:
        clear_run(run)
    claim_run(run)
    for place in run.folders:
        if not (place / ENV_FILE).exists():
            begun = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            write_json(place / ENV_FILE, {"hashes": run_hashes(run), "begun": begun, **describe_environment()})
    return run


def claim_run(run: Run) -> None:
    """Make the run's folders and write the resolved recipe.json where it is missing: from now on they are taken."""
    for place in run.folders:
        with explain_os_errors(f"cannot make the run folder {short_path(place)}"):
            place.mkdir(parents=True, exist_ok=True)
        if not (place / RECIPE_FILE).exists():
            write_json(place / RECIPE_FILE, {**to_dict(run.recipe), "fingerprint": run.recipe.fingerprint})


def clear_run(run: Run) -> None:
    """Delete what a seed's folder holds, or all of a recipe's folder but its seeds: what --fresh does.

    A folder with files but no recipe.json is not a run's folder and is left alone (UserError).
    """
    if not run.folder.is_dir():
        return
    with explain_os_errors(f"cannot clear {run.label}"):
        doomed = [path for path in run.folder.iterdir() if path.name not in (LOCK_NAME, HOLDER_NAME)]
        if run.seed is None:
            doomed = [path for path in doomed if not SEED_FOLDER.fullmatch(path.name)]
        doomed.sort(key=lambda path: path.name == RECIPE_FILE)  # the file that makes it a run's folder goes last
        if doomed and doomed[-1].name != RECIPE_FILE:
            raise UserError(f"{run.label} is no run's folder: it has no recipe.json; choose another --name")
        for path in doomed:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


# ---------------------------------------------------------------------- whose it is


def run_hashes(run: Run) -> dict[str, str]:
    """What decides a run's numbers: hashes of the resolved recipe, the dataset's manifest and the core's sources."""
    return {"recipe": run.recipe.fingerprint, "data": run.dataset.manifest_sha256, "core": core_sha256()}


def _check_owner(run: Run, folder: Path) -> None:
    """UserError if `folder` was begun with another recipe, other data or another core."""
    if (folder / RECIPE_FILE).exists():
        recorded = json_object(folder / RECIPE_FILE)
        if recorded.get("fingerprint") != run.recipe.fingerprint:
            before, now = flatten(recorded), flatten(to_dict(run.recipe))
            changed = [key for key in now if before.get(key) != now[key] and key not in ("name", "title")]
            words = [f"{key} was {before.get(key)!r}, now {now[key]!r}" for key in changed]
            what = [*words, "its recipe.json was edited"][0]
            raise UserError(f"{short_path(folder)} belongs to another recipe ({what}); {REMEDY}")
    if (folder / ENV_FILE).exists() and (reason := _what_changed(folder / ENV_FILE, run)):
        raise UserError(f"{short_path(folder)}: {reason} since it was begun; {REMEDY}")


def _what_changed(path: Path, run: Run) -> str:
    """Empty if the hashes recorded there agree with the run's, else what differs, in words."""
    words = {"recipe": "the recipe", "data": f"dataset {run.dataset.name}", "core": "the core (pgolf_core/*.py)"}
    told = json_object(path).get("hashes")
    changed = [words[key] for key, now in run_hashes(run).items() if not isinstance(told, dict) or told.get(key) != now]
    return f"{' and '.join(changed)} changed" if changed else ""


# ---------------------------------------------------------------------- stages


def stage_named(name: str) -> Stage:
    """The stage of that name; UserError lists the names."""
    known = {stage.name: stage for stage in STAGES}
    if name not in known:
        raise UserError(f"unknown stage '{name}'; known: {', '.join(known)}")
    return known[name]


def stage_file(run: Run, stage_name: str) -> Path:
    """Where a finished stage leaves its mark."""
    return run.folder / "stages" / f"{stage_name}.json"


def begin_attempt(run: Run) -> float:
    """Note that a stage of the run begins now; returns now, by the clock that nobody sets (time.monotonic)."""
    note = run.folder / ATTEMPT
    for one in (note, run.folder / progress.ATTEMPT):
        _attempt(one)  # or it refuses, before anything is computed
    patterns = ("notebooks/*.ipynb", "figures/*", *progress.SIGNS_OF_LIFE)
    signs = [path for pattern in patterns for path in run.folder.glob(pattern)]
    write_json(note, {"began": time.time(), "kept": 0.0, "lost": progress.lost_seconds(note, signs)})
    return time.monotonic()


def note_restart(folder: Path) -> None:
    """Where Slurm starts a job anew, note how far the seed in `folder` has come, in finished stages and saved steps.

    UserError if the restart before this one began at the very same place: it moved nothing, and so it might go on for
    ever. Slurm says by its own variables which job this is, and how often it was started anew.
    """
    job, told = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT") or "0"
    if not job:
        return
    if not re.fullmatch(r"[0-9]{1,9}", told):
        raise UserError(f"SLURM_RESTART_COUNT={told[:40]} is no number of a restart; unset it and submit the job again")
    from pgolf_core.training.checkpoint import load_tensors  # here: it imports torch

    path, checkpoint = folder / RESTART, folder / CHECKPOINT
    step = load_tensors(checkpoint, only_about=True)[1].get("step", 0) if checkpoint.is_file() else 0
    stages = [mark.name for mark in folder.glob("stages/*.json") if mark.name[:2].isdecimal()]
    now = {"job": job, "stages": len(stages), "step": step}
    before = read_object(path)
    if type(last := before.pop("restart", 0)) is not int:
        raise UserError(f"{path}: restart = {last!r:.40} is no number of a restart; delete it and submit the job again")
    if before == now and 0 < last < int(told):
        said = f"({so_many(len(stages), 'stage')} finished, step {step} saved), so restart {int(told)} is refused"
        said = f"restart {last} of job {job} moved nothing {said}; look into its log, then submit it again"
        raise UserError(f"{short_path(folder)}: {said}")
    write_json(path, now | {"restart": int(told)})


def _attempt(path: Path) -> progress.Attempt | None:
    """The note of an attempt, if there is one; UserError for one that is damaged."""
    try:
        return build(progress.Attempt, read_json(path), str(path)) if path.exists() else None
    except UserError as error:
        said = str(error).partition("; delete")[0]
        raise UserError(f"{said}; delete it: seconds of attempts that ended early are then not counted") from None


def finish_stage(run: Run, stage_name: str, **values: Any) -> Path:
    """Mark a stage as finished: stages/<stage>.json with hashes, seconds, versions and `values`; returns its path.

    A notebook's last call. The stage's result file must be there already (UserError). Marks of later stages are
    removed, since they were made from what this stage has just replaced.
    """
    stage = stage_named(stage_name)
    if not (run.folder / stage.result).is_file():
        raise UserError(f"{stage_name} cannot be finished: {run.label}/{stage.result} was not written")
    forget_stages(run, stage_name, itself=False)
    path, spent, lost = stage_file(run, stage_name), round(run.elapsed_seconds(), 3), round(run.lost_seconds(), 3)
    files = file_hashes(run.folder, (stage.result, *stage.leaves))
    mark = {"stage": stage_name, "hashes": run_hashes(run), FILE_HASHES: files, "env": describe_environment()}
    write_json(path, {**mark, "seconds": spent, "lost_seconds": lost, "ended": time.monotonic(), **values})
    (run.folder / ATTEMPT).unlink(missing_ok=True)
    if stage.name == "03_train":
        (run.folder / TRAIN_RESULT).unlink(missing_ok=True)  # its mark has it now; run again, the notebook trains anew
    return path


def forget_stages(run: Run, stage_name: str, *, itself: bool = True) -> None:
    """Remove the marks of a stage (unless not `itself`) and of all that is made from it: later ones, and the report's.

    Also a seed's result.json: it would speak of files that are being replaced.
    """
    later = [stage for stage in STAGES if stage.name > stage_name or (itself and stage.name == stage_name)]
    stale = [stage for stage in later if (stage.per == "seed") == (run.seed is not None)]
    with explain_os_errors(f"cannot write in {run.label}"):
        for stage in stale:
            stage_file(run, stage.name).unlink(missing_ok=True)
            if stage.result == SEED_RESULT:
                (run.folder / stage.result).unlink(missing_ok=True)
        (run.recipe_folder / "stages" / f"{STAGES[-1].name}.json").unlink(missing_ok=True)


def stage_is_done(run: Run, stage_name: str) -> bool:
    """Whether the stage finished with this recipe, data and core; UserError if it did with others."""
    path = stage_file(run, stage_name)
    if not path.is_file() or not (run.folder / stage_named(stage_name).result).is_file():
        return False
    if reason := _what_changed(path, run):
        raise UserError(f"{run.label}: {reason} since {stage_name} was run; {REMEDY}")
    return True


# ---------------------------------------------------------------------- environment


def describe_environment() -> dict[str, Any]:
    """Commit and dirty flag (None without git), versions, device and threads; nothing that names a machine or user."""
    import torch  # here, as above

    from pgolf_core.base.device import pick_device

    device = pick_device()
    status = _git("status", "--porcelain", "--untracked-files=no")
    versions = {"python": platform.python_version()} | {name: version(name) for name in VERSIONED}
    versions |= {name: version(name) for name in NOT_NEEDED if find_spec(name)}
    return {
        "commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status), "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(), "cores": os.cpu_count(),
    }  # fmt: skip


def _git(*arguments: str) -> str | None:
    """Output of a git command in the repository; None where git or the repository is missing."""
    try:
        command = ["git", "-C", str(find_root()), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
