"""`pgolf bench`: the fast code against the plain code, the goals, and where a step's time goes.

Every measure runs in a process of its own, and each of its arms once more alone, for its peak memory. Heavy imports
stay inside the calls.
"""

import argparse
import datetime
import functools
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgolf_core.base.files import write_json
from pgolf_core.lab.bench.goals import Values, goal_cells, judged
from pgolf_core.lab.shared.places import find_root, short_path
from pgolf_core.lab.shared.tables import so_many, table_text, width
from pgolf_core.lab.shared.usage import UsageError, add_json, add_set, checked_recipe, count

FORMAT = 1
MEASURES = ("step", "newton_schulz", "sliding", "rounding", "packing")
RECIPES = ("local", "pr315")
"""The local track's own, and the record that the goals name."""
BUSY_LOAD = 0.5
"""Mean number of running processes of the last minute from which on timings say little."""


def add(parser: argparse.ArgumentParser) -> None:
    """The options of `pgolf bench`."""
    option = parser.add_argument
    option("--recipes", type=_names, default=RECIPES, metavar="A,B", help="comma-separated (default: local,pr315)")
    about = f"comma-separated, of {', '.join(MEASURES)} (default: all)"
    option("--measures", type=_measures, metavar="A,B", help=about)
    add_set(parser)
    option("--threads", type=count, default=2, metavar="N", help="of every process (default 2)")
    about = "sequences of a micro-batch in both arms (default: the recipe's, a record's cut)"
    option("--micro-batch-seqs", type=count, default=0, metavar="N", help=about)
    option("--quick", action="store_true", help="two turns of each: shows that it runs, its numbers are no result")
    option("--profile", action="store_true", help="instead: which operators one step of each recipe spends its time in")
    option("--arm", choices=("fast", "plain"), help="which arm --profile looks at (default fast)")
    option("--out", type=_json_file, metavar="FILE.json", help="where the numbers go (default: runs/bench/<time>.json)")
    add_json(parser)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"'{text}' names none; leave the option out for the default")
    return names


def _measures(text: str) -> list[str]:
    names = [name.replace("-", "_") for name in _names(text)]
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown measure '{unknown[0]}'; known: {', '.join(MEASURES)}")
    return names


def _json_file(text: str) -> Path:
    path = Path(os.path.expanduser(text))
    if path.suffix != ".json":
        raise argparse.ArgumentTypeError(f"'{text}': the numbers' file ends in .json")
    return path


def run(options: argparse.Namespace) -> int:
    """Measure or profile, write the JSON file, print tables (or the JSON); 0 whether or not the goals are met."""
    import torch

    from pgolf_core.lab.bench import profile
    from pgolf_core.lab.bench.clock import FULL, QUICK, in_child
    from pgolf_core.lab.bench.measures import Task, measure, peak_memory

    names = ("step",) if options.profile else options.measures or MEASURES
    if options.measures and options.profile:
        raise UsageError("--profile looks at a step instead of measuring; leave --measures out")
    if options.arm and not options.profile:
        raise UsageError("--arm is of --profile; a measure has both arms")
    if options.micro_batch_seqs and "step" not in names:
        raise UsageError("--micro-batch-seqs is of the measure step, which --measures leaves out")
    for recipe in options.recipes:
        checked_recipe(recipe, options.set)
    torch.set_num_threads(options.threads)
    effort, how = QUICK if options.quick else FULL, (options.threads, options.micro_batch_seqs, sys.stderr.isatty())
    tasks = [Task(name, recipe, tuple(options.set), effort, *how) for recipe in options.recipes for name in names]
    tasks = [task for task in tasks if task.takes_part()]
    if not tasks:
        raise UsageError("nothing to measure: a record is scored on a GPU alone, rounding needs quant.correction; "
                         "name other --recipes or --measures")  # fmt: skip
    begun, env = datetime.datetime.now(datetime.UTC), environment()
    result: Values = {"format": FORMAT, "begun": begun.isoformat(timespec="seconds"), "quick": options.quick}
    result |= {"env": env, "busy": busy_warning(env["load_average_before"][0])}
    suffix = "-profile.json" if options.profile else ".json"
    path = options.out or find_root() / "runs" / "bench" / f"{begun:%Y%m%dT%H%M%SZ}{suffix}"
    say = functools.partial(print, file=sys.stderr, flush=True)
    if result["busy"]:
        say(result["busy"])
    found = result["profiles" if options.profile else "measures"] = []
    for number, task in enumerate(tasks, start=1):
        say(f"{number}/{len(tasks)} {task.label}")
        if options.profile:
            found.append(in_child(profile.profile_step, task, options.arm or "fast"))
        else:
            t_start = time.perf_counter()
            values = in_child(measure, task)
            values["peak_memory"] = {arm: in_child(peak_memory, task, arm) for arm in values["seconds"]}
            found.append(values | {"measure_seconds": time.perf_counter() - t_start})
            result["goals"] = judged(found)
        result["seconds"] = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
        write_json(path, result)  # anew after each: what was measured stays if a later one fails
    if options.json:
        print(json.dumps(result, indent=2))
    elif options.profile:
        print("\n\n".join([_machine(env), *map(profile.profile_text, found)]))
    else:
        print(benchmark_text(result))
    say(f"wrote {short_path(path)}")
    return 0


def environment() -> dict[str, Any]:
    """Commit, versions, device, threads, processor, and how busy the machine is."""
    from pgolf_core.lab.record.folder import describe_environment

    known = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.*)", known.read_text(), re.MULTILINE) if known.is_file() else []
    cpu = names[0] if names else os.uname().machine
    return {**describe_environment(), "cpu": cpu, "load_average_before": list(os.getloadavg())}


def busy_warning(load: float) -> str:
    """Empty, or why timings taken now say little: `load` is the mean number of running processes of the last minute."""
    told = f"load average {load:.1f} before the first measure: others use this machine, its timings say little"
    return told if load >= BUSY_LOAD else ""


# ---------------------------------------------------------------------- text


def benchmark_text(result: Values) -> str:
    """The tables that people read."""
    told = "--quick: two turns, to see that everything runs; the numbers are no result" if result["quick"] else ""
    parts = [textwrap.fill(line, width()) for line in (_machine(result["env"]), result["busy"], told) if line]
    header = ("", "plain", "fast", "plain / fast", "quartiles", "turns")
    for values in result["measures"]:
        parts += ["", textwrap.fill(_title(values), width()), table_text(header, _rows(values))]
    goals = [(*goal_cells(goal), "met" if goal["met"] else "not met") for goal in result["goals"]]
    return "\n".join([*parts, "", table_text(("goal (medians)", "wanted", "measured", ""), goals, left=2)])


def _machine(env: dict[str, Any]) -> str:
    commit = (env["commit"] or "unknown")[:8] + (" and changes" if env["dirty"] else "")
    about = f"{env['device']} ({env['cpu']}), {so_many(env['threads'], 'thread')}, torch {env['versions']['torch']}"
    return f"{about}, commit {commit}"


def _title(values: Values) -> str:
    about = {
        "step": "micro-batch of {micro_batch_sequences} sequences, {micro_batch_tokens:,} tokens; {path[fast]}",
        "newton_schulz": "{iterations} iterations, {compute_dtype}",
        "sliding": "{windows} windows of {window_tokens}, stride {stride_tokens}, {compute_dtype}, {bpb[fast]:.4f} bpb "
                   "both ways",
        "rounding": "{weights:,} weights, the plain way on one thread",
        "packing": "{parameters:,} parameters, {file_bytes:,} bytes, {bits_per_weight:.2f} bits a weight",
    }[values["measure"]].format(**values)  # fmt: skip
    others = f"others took {values['others_processor_share']:.0%} of the processors meanwhile"
    return f"{values['measure'].replace('_', '-')} of {values['recipe']}: {about}; {others}"


def _rows(values: Values) -> Iterator[tuple[object, ...]]:
    """Rows of one measure: what, plain, fast, their ratio with its quartiles and turns."""

    def row(what: str, shown: dict[str, str], ratio: dict[str, Any] | None = None) -> tuple[object, ...]:
        told = "{median:.2f}|{quartile_1:.2f} to {quartile_3:.2f}|{turns}".format(**ratio).split("|") if ratio else []
        return what, shown.get("plain"), shown["fast"], *told

    def medians(found: dict[str, dict[str, float]], form: str) -> dict[str, str]:
        return {arm: format(spread["median"], form) for arm, spread in found.items()}

    seconds, ratios = values["seconds"], values.get("ratio", {})
    for part in seconds["fast"]:
        shown = medians({arm: seconds[arm][part] for arm in seconds}, ".4g")
        yield row(f"{part.replace('_', '-')}, s", shown, ratios.get(part))
    for step in values.get("steps", ()):
        what = f"step of {step['step_tokens']:,} tokens"
        yield row(f"{what}, tokens/s", medians(step["tokens_per_second"], ",.0f"), step["speedup_ratio"])
        yield row(f"{what}, Muon's share", medians(step["muon_share"], ".1%"))
    peaks = {arm: f"{peak['peak_bytes'] / 2**20:,.0f}" for arm, peak in values["peak_memory"].items()}
    yield row("peak memory, MiB", peaks)
