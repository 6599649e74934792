"""The runner: notebooks executed by papermill, stage after stage and seed after seed, so that a run can be trusted."""

import ast
import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_core.utils import ensure_async, run_sync
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillException, PapermillExecutionError
from papermill.log import logger as papermill_logger
from tqdm import tqdm

from pgolf_core.base.files import UserError, explain_os_errors, read_json, write_bytes
from pgolf_core.lab.compare.agreement import changed_files
from pgolf_core.lab.record import folder as runs
from pgolf_core.lab.record.folder import STAGE_BEGAN, STAGES, Run, RunRequest, Stage, stage_file, stage_is_done
from pgolf_core.lab.record.kernels import kernel_manager
from pgolf_core.lab.record.launch import set_processes
from pgolf_core.lab.record.lock import Busy, hold
from pgolf_core.lab.shared.places import SUMMARY_FILE, child_environment, find_root, short_path

GRACE_SECONDS = 20.0
"""How long a cell may go on after Ctrl-C, to write its checkpoint."""
POLL_SECONDS = 0.2
SETTLE_SECONDS = 0.5
"""An interrupt that reaches a kernel before its cell is running is lost, so it is not sent earlier than this."""
STAGE_BAR = "{desc}: stage {n_fmt} of {total_fmt} |{bar:30}| {elapsed}"
"""Without an estimate of the time left: one stage of seven takes nearly all of it, and its own bar says how long."""
PARTS: tuple[str, ...] = ("recipe", "seed", "report")
"""The kinds of stages (`Stage.per`), in their order."""
LAST_OF_SEED = [stage.name for stage in STAGES if stage.per == "seed"][-1]
CELL_BAR = "{desc}: {n_fmt} of {total_fmt} cells{postfix}"

papermill_logger.addHandler(logging.NullHandler())  # what matters of its messages comes out as one error line


class RunFailed(UserError):
    """A stage did not finish."""


class Stopped(KeyboardInterrupt):
    """The run was asked to end (Ctrl-C, SIGTERM, SIGHUP) and did."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Notes signals instead of dying from them, so that the running cell can be asked to stop first."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.t_asked = 0.0
        self.hurry = False
        """A second signal came: end the cell at once."""
        self.in_cell = False
        self.cell = ""
        """` in cell 'train' (number 7)`: the cell that was begun last, for messages."""

    @contextlib.contextmanager
    def watching(self) -> Iterator["StopRequest"]:
        """Take the signals over while inside; ignored ones stay ignored (nohup, &): then SIGTERM stops in the same way.

        Other threads than the first have none to take.
        """
        previous: dict[int, Any] = {}
        with contextlib.suppress(ValueError):
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                if signal.getsignal(number) != signal.SIG_IGN:
                    previous[number] = signal.signal(number, self._note)
                elif number == signal.SIGINT:
                    print(f"Ctrl-C is ignored in the background; `kill {os.getpid()}` stops alike", file=sys.stderr)
        try:
            yield self
        finally:
            for taken, handler in previous.items():
                signal.signal(taken, handler)

    def _note(self, signum: int, frame: Any) -> None:
        if self.signum is None:
            self.signum, self.t_asked = signum, time.monotonic()
        elif time.monotonic() - self.t_asked < 1.0:
            return  # one Ctrl-C may arrive twice, through a wrapper
        elif self.in_cell and not self.hurry:
            self.hurry = True
        else:
            raise Stopped(self.signum)

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.signum is not None:
            raise Stopped(self.signum)


# ---------------------------------------------------------------------- cells


class _Client(PapermillNotebookClient):
    """papermill's client, with stoppable cells and the kernel's last line of output on the bar."""

    stop: StopRequest

    async def _execute_stoppable(self, cell: Any, cell_index: int, **options: Any) -> Any:
        if self.stop.signum is not None:
            raise RunFailed("stopped")  # an ordinary exception: the event loop treats KeyboardInterrupt in its own way
        self.stop.cell = f" in cell '{cell.get('id', '?')}' (number {cell_index + 1})"
        t_start, t_asked = time.monotonic(), 0.0
        task = asyncio.ensure_future(self.async_execute_cell(cell, cell_index, **options))
        self.stop.in_cell = True
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=POLL_SECONDS)
                if task.done() or self.stop.signum is None:
                    continue
                now = time.monotonic()
                if self.stop.hurry or (t_asked and now - t_asked > GRACE_SECONDS):
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    await ensure_async(self.km.shutdown_kernel(now=True))
                elif not t_asked and now - t_start > SETTLE_SECONDS:
                    t_asked = now
                    tqdm.write(f"stopping: the running cell has {GRACE_SECONDS:g} s to save its work", file=sys.stderr)
                    await ensure_async(self.km.interrupt_kernel())
        finally:
            self.stop.in_cell = False
        if self.stop.signum is not None and (task.cancelled() or not task.exception()):
            raise RunFailed("stopped")
        return task.result()

    execute_cell = run_sync(_execute_stoppable)

    def process_message(self, *arguments: Any, **options: Any) -> Any:
        output = super().process_message(*arguments, **options)
        if output is not None and output.get("output_type") == "stream" and output["text"].strip():
            self.nb_man.pbar.set_postfix_str(output["text"].strip().replace("\r", "\n").split("\n")[-1].strip()[:100])
        return output


class _Engine(NBClientEngine):
    """papermill's engine, with this module's client; registered under the name `pgolf`."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        nb_man.nb.metadata.papermill.update(options["shown_paths"])
        save = nb_man.save

        def save_in_code(**_: Any) -> None:
            """papermill saves it all before and after every cell, of text too: before code that runs is enough."""
            if any(c.cell_type == "code" and c.metadata.papermill.status == nb_man.RUNNING for c in nb_man.nb.cells):
                save()

        nb_man.save = save_in_code
        with tempfile.TemporaryDirectory(prefix="pgolf-kernel-") as scratch:
            client = _Client(
                nb_man, startup_timeout=120, iopub_timeout=60, coalesce_streams=True, shutdown_kernel="immediate",
                extra_arguments=["--log-level=50"], log=papermill_logger,
            )  # fmt: skip
            client.stop, client.km = options["stop"], kernel_manager(Path(scratch))  # the client ends it
            own = {"IPYTHONDIR": scratch, STAGE_BEGAN: repr(options["began"])}
            try:
                client.execute(env=child_environment() | own, cwd=options["kernel_folder"])
            finally:
                nb_man.save = save  # papermill's last one


papermill_engines.register("pgolf", _Engine)


# ---------------------------------------------------------------------- one notebook


def full_parameters(stage_name: str, parameters: Mapping[str, Any], notebooks_dir: Path | None) -> dict[str, Any]:
    """The notebook's complete parameter set: its defaults, updated with `parameters`.

    Raises UserError for a missing notebook, an unknown parameter, or a default that is not a plain literal.
    """
    path = _notebook_path(stage_name, notebooks_dir)
    try:
        cells = nbformat.read(path, as_version=4).cells
        tagged = "\n".join(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
        lines = [node for node in ast.parse(tagged).body if isinstance(node, ast.AnnAssign)]
    except (ValueError, SyntaxError) as error:
        raise UserError(f"{short_path(path)} is no notebook that can be run: {_failure(error)}") from None
    known: dict[str, Any] = {}
    for line in lines:
        try:
            known[ast.unparse(line.target)] = ast.literal_eval(line.value or line)
        except ValueError:
            raise UserError(f"{path.name}: a parameter's default is no plain literal: {ast.unparse(line)}") from None
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise UserError(f"{path.name} has no parameter '{unknown[0]}'; it has: {', '.join(known) or 'none'}")
    return {**known, **parameters}


def run_notebook(
    run: Run,
    stage_name: str,
    parameters: Mapping[str, Any],
    stop: StopRequest,
    began: float,
    notebooks_dir: Path | None = None,
) -> None:
    """Execute one stage's notebook into the notebooks/ of the run's folder.

    The stage's mark must be written by this execution: a cell that ends the kernel's work early (sys.exit) is a failure
    too. Raises RunFailed with cell, error and notebook; Stopped after a signal. `began` is since when its seconds
    count, by time.monotonic.
    """
    path, values = _notebook_path(stage_name, notebooks_dir), full_parameters(stage_name, parameters, notebooks_dir)
    output, mark = run.folder / "notebooks" / path.name, stage_file(run, stage_name)
    shown = short_path(output)
    bar = {"desc": stage_name, "leave": False, "position": 1, "disable": None, "bar_format": CELL_BAR}
    try:
        with explain_os_errors(f"{stage_name}: cannot write {shown}"):
            output.parent.mkdir(parents=True, exist_ok=True)
            mark.unlink(missing_ok=True)
            papermill.execute_notebook(
                _no_template(path), _no_template(output), values, engine_name="pgolf", kernel_name="python3",
                language="python", progress_bar=bar, stop=stop, kernel_folder=str(path.parent), began=began,
                shown_paths={"input_path": short_path(path), "output_path": shown},
            )  # fmt: skip
    except (PapermillException, DeadKernelError, RunFailed, RuntimeError, TimeoutError) as error:
        stop.check()
        raise RunFailed(f"{stage_name} failed{stop.cell}: {_failure(error)}; notebook: {shown}") from error
    stop.check()
    if not mark.is_file():
        raise RunFailed(f"{stage_name} ended without finish_stage (did a cell call sys.exit?); notebook: {shown}")


def _notebook_path(stage_name: str, notebooks_dir: Path | None) -> Path:
    folder = find_root() / "notebooks" if notebooks_dir is None else Path(os.path.abspath(notebooks_dir))
    path = folder / f"{runs.stage_named(stage_name).name}.ipynb"
    if not path.is_file():
        raise UserError(f"{short_path(path)} does not exist; restore it from git")
    return path


def _no_template(path: Path) -> str:
    """papermill fills braces in paths from the parameters; a folder that has some means them literally."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _failure(error: Exception) -> str:
    """`ValueError: the first line of what it says`; a UserError of ours speaks for itself."""
    if isinstance(error, DeadKernelError):
        return "its Python process died (out of memory, or a crash)"
    name, text = type(error).__name__, str(error)
    if isinstance(error, PapermillExecutionError):
        name, text = error.ename, str(error.evalue)
    first = (text.strip().splitlines() or [""])[0][:400]
    return first if name == "UserError" and first else f"{name}: {first}".rstrip(": ")


# ---------------------------------------------------------------------- a whole record


def record(
    request: RunRequest, seeds: Sequence[int], notebooks_dir: Path | None = None, parts: Sequence[str] = PARTS
) -> Path:
    """Run the notebooks for the seeds, one seed after another; returns the path of summary.json.

    Finished stages are skipped; a killed run goes on where it stopped. What can be refused is refused before the first
    notebook runs. Seeds that somebody else is at work on are left to him. `parts` are those of PARTS to run. Raises
    RunFailed when a stage fails, Busy where the report has to wait for others, Stopped after a signal.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {','.join(map(str, seeds))}: give at least one seed, none twice")
    located = {seed: runs.locate_run(dataclasses.replace(request, seed=seed)) for seed in (None, *seeds)}
    parameters = {seed: dataclasses.replace(request, seed=seed).parameters(seeds) for seed in located}
    for stage in STAGES:
        full_parameters(stage.name, parameters[None], notebooks_dir)
    plan = [(part, located[seed], [stage for stage in STAGES if stage.per == part])
            for part in PARTS if part in parts for seed in (seeds if part == "seed" else [None])]  # fmt: skip
    busy: dict[int | None, Busy] = {}
    with StopRequest().watching() as stop:
        for run in located.values():
            with _leaving(busy, run), hold(run.folder, run.seed is None, stop.check):
                if request.fresh:
                    runs.clear_run(run)
                runs.claim_run(run)
                if run.seed is not None:
                    set_processes(run, request.processes)
        for _, run, stages in plan:
            for stage in stages:
                stage_is_done(run, stage.name)  # or it refuses
        number, label = sum(len(stages) for *_, stages in plan), located[None].recipe_folder.name
        with tqdm(total=number, desc=label, disable=None, bar_format=STAGE_BAR) as bar:
            for part, run, stages in plan:
                if part == "report":
                    _refuse_unfinished(busy, located)
                with _leaving(busy, run), hold(run.folder, run.seed is None, stop.check):
                    if run.seed is not None:
                        runs.note_restart(run.folder)
                    _run_stages(run, stages, parameters[run.seed], stop, notebooks_dir, bar)
        _refuse_unfinished(busy, located)
    folder = located[None].folder
    if "report" in parts:
        if not (folder / SUMMARY_FILE).is_file():
            raise RunFailed(f"{STAGES[-1].name} finished without writing {located[None].label}/{SUMMARY_FILE}")
        report = folder / "notebooks" / f"{STAGES[-1].name}.ipynb"
        write_bytes(folder / "report.ipynb", report.read_bytes())  # beside its HTML
    return folder / SUMMARY_FILE


def finished_seeds(request: RunRequest, seeds: Sequence[int]) -> list[int]:
    """Those of the seeds that need nothing but the report."""
    located = {seed: runs.locate_run(dataclasses.replace(request, seed=seed)) for seed in seeds}
    return [seed for seed, run in located.items() if stage_is_done(run, LAST_OF_SEED)]


@contextlib.contextmanager
def _leaving(busy: dict[int | None, Busy], run: Run) -> Iterator[None]:
    """Leave what is done inside if somebody else is at work on the run, and note that."""
    try:
        yield
    except Busy as error:
        busy[run.seed] = error


def _refuse_unfinished(busy: Mapping[int | None, Busy], located: Mapping[int | None, Run]) -> None:
    """Busy if a seed that was left to others is not finished: whoever finishes last writes the report."""
    for seed, error in busy.items():
        if not stage_is_done(located[seed], LAST_OF_SEED):
            raise error


def _run_stages(
    run: Run, stages: Sequence[Stage], parameters: Mapping[str, Any], stop: StopRequest, notebooks_dir: Path | None,
    bar: tqdm,
) -> None:  # fmt: skip
    """Those of the stages of one run that are not finished; its folder is held."""
    ended: float | None = None
    """When the stage before ended, if it ran now: its kernel then needed a while to close."""
    for stage in stages:
        stop.check()
        t_start = time.monotonic()
        ran = not _is_finished(run, stage, parameters["seeds"])
        if ran:
            runs.forget_stages(run, stage.name)
            began = runs.begin_attempt(run) if run.seed is not None else t_start
            run_notebook(run, stage.name, parameters, stop, began if ended is None else ended, notebooks_dir)
            if not stage_is_done(run, stage.name):
                raise RunFailed(f"{stage.name} ended without writing {run.label}/{stage.result}")
        ended = read_json(stage_file(run, stage.name))["ended"] if ran else None
        took = f"{time.monotonic() - t_start:.1f} s" if ran else "finished before, skipped"
        what = stage.name if run.seed is None else f"{stage.name}, seed {run.seed}"
        bar.update()
        tqdm.write(f"{what}: {took}", file=sys.stderr)


def _is_finished(run: Run, stage: Stage, seeds: Sequence[int]) -> bool:
    """Whether the stage need not run again; the report and its summary must have been made of these very seeds."""
    if not stage_is_done(run, stage.name):
        return False
    if stage.per != "report":
        return True
    said = []
    if any(changed_files(run.folder, stage.name)):
        return False
    with contextlib.suppress(UserError):  # a summary that is gone or damaged is made again
        said = [read_json(path) for path in (stage_file(run, stage.name), run.folder / SUMMARY_FILE)]
    return bool(said) and all(isinstance(one, dict) and one.get("seeds") == list(seeds) for one in said)
