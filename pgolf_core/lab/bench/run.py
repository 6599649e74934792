"""`pgolf bench`: the fast code against the plain code, the goals, and where a step's time goes.

Every measure runs in a process of its own, and each of its arms once more alone, for its peak memory.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pgolf_core.base import device as machine
from pgolf_core.base.files import write_json
from pgolf_core.lab.bench.clock import FULL, QUICK, in_child
from pgolf_core.lab.bench.measures import MEASURES, Task, arm_names, measure, peak_memory, takes_part
from pgolf_core.lab.bench.profile import profile_step, profile_text
from pgolf_core.lab.bench.step import RECORD_TRACK
from pgolf_core.lab.record.folder import describe_environment
from pgolf_core.lab.shared.places import find_root, short_path
from pgolf_core.recipes.reading import available_recipes, load_recipe

FORMAT = 1
LOCAL_TRACK = "local_10min_1mb"
MUON_TOKENS = 98_304


@dataclass(frozen=True)
class Goal:
    """A number that a measure of the recipes of one track should reach."""

    what: str
    measure: str
    tracks: tuple[str, ...]
    bound: float
    at_least: bool
    unit: str
    value: Callable[[dict[str, Any]], float]
    """The number out of a measure's values: a median."""

    def judge(self, values: dict[str, Any]) -> dict[str, Any]:
        """The goal's row for one recipe."""
        measured = self.value(values)
        return {
            "goal": self.what, "recipe": values["recipe"], "sense": "at least" if self.at_least else "at most",
            "bound": self.bound, "unit": self.unit, "measured": measured,
            "met": measured >= self.bound if self.at_least else measured <= self.bound,
        }  # fmt: skip


def _muon_share(values: dict[str, Any]) -> float:
    size = next(step for step in values["steps"] if step["step_tokens"] == MUON_TOKENS)
    return size["muon_share"]["fast"]["median"]


GOALS = (
    Goal("whole step against the plain one", "step", (LOCAL_TRACK,), 1.5, True, "times as fast",
         lambda values: values["steps"][0]["speedup_ratio"]["median"]),
    Goal("sliding score against the plain way", "sliding", (LOCAL_TRACK,), 1.1, True, "times as fast",
         lambda values: values["ratio"]["whole"]["median"]),
    Goal("Newton-Schulz batched against the loop", "newton_schulz", (LOCAL_TRACK, RECORD_TRACK), 1.3, True,
         "times as fast", lambda values: values["ratio"]["whole"]["median"]),
    Goal(f"Muon's share of a step of {MUON_TOKENS:,} tokens", "step", (RECORD_TRACK,), 0.05, False,
         "of the step's seconds", _muon_share),
    Goal("packing", "packing", (RECORD_TRACK,), 60.0, False, "seconds",
         lambda values: values["seconds"]["fast"]["pack"]["median"]),
)  # fmt: skip


def default_recipes() -> list[str]:
    """The local track's own recipe, if it is there, and the record that the goals name."""
    return ["local" if "local" in available_recipes() else "local-pr315", "pr315"]


def run_benchmark(
    recipes: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    measures: Sequence[str] = tuple(MEASURES),
    quick: bool = False,
    threads: int = 2,
    micro_batch_seqs: int = 0,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
) -> dict[str, Any]:
    """All measures of all recipes, and the goals: plain values, ready for JSON."""
    torch.set_num_threads(threads)
    device = machine.pick_device()
    env = environment()
    begun, t_start = datetime.datetime.now(datetime.UTC), time.perf_counter()
    busy = busy_warning(env["load_average_before"][0])
    if busy:
        say(busy)
    effort, found = QUICK if quick else FULL, []
    tasks = [
        Task(name, recipe, tuple(overrides), effort, threads, micro_batch_seqs, progress)
        for recipe in recipes
        for name in measures
        if takes_part(name, load_recipe(recipe, overrides), device)
    ]
    for number, task in enumerate(tasks, start=1):
        say(f"{number}/{len(tasks)} {task.label}")
        t_measure = time.perf_counter()
        values = in_child(measure, task)
        values["peak_memory"] = {arm: in_child(peak_memory, task, arm) for arm in arm_names(task.measure)}
        values["measure_seconds"] = time.perf_counter() - t_measure
        found.append(values)
    return {
        "format": FORMAT,
        "begun": begun.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - t_start,
        "quick": quick,
        "busy": busy,
        "env": env,
        "measures": found,
        "goals": [
            goal.judge(values) for goal in GOALS for values in found
            if values["measure"] == goal.measure and values["track"] in goal.tracks
        ],
    }  # fmt: skip


def environment() -> dict[str, Any]:
    """Commit, versions, device, threads, processor, and how busy the machine is."""
    return {**describe_environment(), "cpu": cpu_name(), "load_average_before": list(os.getloadavg())}


def cpu_name() -> str:
    """The processor as the system names it; its architecture where it does not."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return os.uname().machine


def busy_warning(load: float) -> str:
    """Empty, or why timings taken now say little: `load` is the mean number of running processes of the last minute."""
    if load < 0.5:
        return ""
    return f"load average {load:.1f} before the first measure: others use this machine, its timings say little"


def default_path(kind: str = "") -> Path:
    """runs/bench/<UTC time>.json in the repository."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return find_root() / "runs" / "bench" / f"{stamp}{kind}.json"


# ---------------------------------------------------------------------- text


def benchmark_text(result: dict[str, Any]) -> str:
    """The tables that people read."""
    parts = [_machine(result["env"]), *([result["busy"]] if result["busy"] else [])]
    if result["quick"]:
        parts.append("--quick: two turns, to see that everything runs; the numbers are no result")
    for values in result["measures"]:
        parts += ["", _title(values), _table(_rows(values))]
    parts += ["", "goals (medians)", _table([_goal_row(goal) for goal in result["goals"]])]
    return "\n".join(parts)


def _machine(env: dict[str, Any]) -> str:
    return (
        f"{env['device']} ({env['cpu']}), {env['threads']} threads, torch {env['versions']['torch']}, "
        f"commit {(env['commit'] or 'unknown')[:8]}{' and changes' if env['dirty'] else ''}"
    )


def _title(values: dict[str, Any]) -> str:
    about = {
        "step": lambda v: f"micro-batch of {v['micro_batch_sequences']} sequences, {v['micro_batch_tokens']:,} tokens; "
                          f"{v['path']['fast']}",
        "newton_schulz": lambda v: f"{v['iterations']} iterations, {v['compute_dtype']}",
        "sliding": lambda v: f"{v['windows']} windows of {v['window_tokens']}, stride {v['stride_tokens']}, "
                             f"{v['compute_dtype']}, {v['bpb']['fast']:.4f} bpb both ways",
        "packing": lambda v: f"{v['parameters']:,} parameters, {v['file_bytes']:,} bytes, "
                             f"{v['bits_per_weight']:.2f} bits a weight",
    }[values["measure"]](values)  # fmt: skip
    share = values["others_processor_share"]
    others = "" if share is None else f"; others took {share:.0%} of the processors meanwhile"
    return f"{values['measure'].replace('_', '-')} of {values['recipe']}: {about}{others}"


def _table(rows: list[dict[str, str]]) -> str:
    return pd.DataFrame(rows).fillna("–").to_string(index=False) if rows else "none"


def _rows(values: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Rows of one measure: what, plain, fast, their ratio with its quartiles."""
    seconds = values["seconds"]
    for part in seconds["fast"]:
        yield {
            "": f"{part.replace('_', '-')}, s",
            **{name: f"{seconds[name][part]['median']:.4g}" for name in seconds},
            **(_ratio(values["ratio"][part]) if "ratio" in values else {}),
        }
    for step in values.get("steps", ()):
        rates, shares = step["tokens_per_second"], step["muon_share"]
        what = f"step of {step['step_tokens']:,} tokens"
        yield {"": f"{what}, tokens/s", **{name: f"{rates[name]['median']:,.0f}" for name in rates},
               **_ratio(step["speedup_ratio"])}  # fmt: skip
        yield {"": f"{what}, Muon's share", **{name: f"{shares[name]['median']:.1%}" for name in shares}}
    memory = values["peak_memory"]
    yield {"": "peak memory, MiB", **{name: f"{memory[name]['peak_bytes'] / 2**20:,.0f}" for name in memory}}


def _ratio(found: dict[str, float]) -> dict[str, str]:
    quartiles = f"{found['quartile_1']:.2f} to {found['quartile_3']:.2f}"
    return {"plain / fast": f"{found['median']:.2f}", "quartiles": quartiles, "turns": str(found["turns"])}


def _goal_row(goal: dict[str, Any]) -> dict[str, str]:
    return {
        "goal": f"{goal['goal']}, {goal['recipe']}",
        "wanted": f"{goal['sense']} {goal['bound']:g} {goal['unit']}",
        "measured": f"{goal['measured']:.3g}",
        "": "met" if goal["met"] else "not met",
    }


# ---------------------------------------------------------------------- the command


def command(
    recipes: Sequence[str], overrides: Sequence[str], *, out: Path | None, as_json: bool, **how: Any
) -> int:  # fmt: skip
    """Measure, write the JSON file, print tables (or the JSON); 0 whether or not the goals are met."""
    result = run_benchmark(recipes, overrides, say=_say, progress=sys.stderr.isatty(), **how)
    return _hand_over(result, out or default_path(), benchmark_text(result), as_json)


def profile_command(
    recipes: Sequence[str], overrides: Sequence[str], *, out: Path | None, as_json: bool, quick: bool, threads: int,
    micro_batch_seqs: int, arm: str,
) -> int:  # fmt: skip
    """Profile one step of each recipe, write the JSON file, print the operators (or the JSON)."""
    torch.set_num_threads(threads)
    found = []
    for recipe in recipes:
        task = Task("step", recipe, tuple(overrides), QUICK if quick else FULL, threads, micro_batch_seqs)
        _say(f"profiling one step of {Path(recipe).stem}, {arm} arm")
        found.append(in_child(profile_step, task, arm))
    result = {"format": FORMAT, "quick": quick, "env": environment(), "profiles": found}
    text = "\n\n".join([_machine(result["env"]), *map(profile_text, found)])
    return _hand_over(result, out or default_path("-profile"), text, as_json)


def _hand_over(result: dict[str, Any], path: Path, text: str, as_json: bool) -> int:
    write_json(path, result)
    print(json.dumps(result, indent=2) if as_json else text)
    _say(f"wrote {short_path(path)}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
