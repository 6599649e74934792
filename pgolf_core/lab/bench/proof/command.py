"""What only a GPU can show, in one command of at most ten minutes; without one a rehearsal with small shapes.

    make cuda-proof ARGS='--out proof.json'

Every part runs in a process of its own, within its share of the time: one that fails says why in a line, and the
others go on. Parts that are timed run alone, the rest side by side after them. The JSON file is written anew after
every part; papers/cuda-proof.md says what is measured.
"""

import argparse
import datetime
import functools
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from pgolf_core.base.files import UserError, read_json, write_json
from pgolf_core.lab.bench.goals import PROOF_GOALS, Values, goal_cells, judged
from pgolf_core.lab.bench.proof import parts
from pgolf_core.lab.bench.proof.parts import SMALL, Shape, one_line
from pgolf_core.lab.shared.places import child_environment, core_sha256, find_root, short_path
from pgolf_core.lab.shared.tables import table_text
from pgolf_core.lab.shared.usage import span_seconds

TOTAL_SECONDS = 560.0
"""Of ten minutes; what is left is for installing wheels and the last words."""
REHEARSAL_SECONDS = 3600.0
TOGETHER_SECONDS = 175.0
"""Of these, kept for the parts that run side by side in the end."""
LEAST_SECONDS = 15.0
"""With less left, a part is not begun."""
Show = Callable[[Shape, Path], Values]
TIMED: dict[str, tuple[float, Show]] = {
    "step-pr315": (160.0, functools.partial(parts.step, name="pr315")),
    "step-pr332": (160.0, functools.partial(parts.step, name="pr332")),
    "sliding-pr315": (110.0, functools.partial(parts.sliding, name="pr315")),
    "correction-pr315": (90.0, functools.partial(parts.correction, name="pr315")),
    "step-pr1493": (160.0, functools.partial(parts.step, name="pr1493")),
}
"""Seconds at most, and what shows the part of a recipe, in the order of what matters most."""
TOGETHER: dict[str, Show] = {run.__name__: run for run in (parts.tests, parts.smoke, parts.resume, parts.two_ranks)}
PARTS = {**{name: show for name, (_, show) in TIMED.items()}, **TOGETHER}


def show_part(name: str, shape: Shape, into: Path) -> None:
    """In the part's own process: leave what it shows, or why not."""
    t_start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="pgolf-") as folder:
            values = PARTS[name](shape, Path(folder))
        why = values.pop("fault", "")
    except Exception as error:
        traceback.print_exc()
        values, why = {}, one_line(error)
    row = {"status": "failed" if why else "done", "why": why, "seconds": time.monotonic() - t_start}
    write_json(into, row | {"values": values})


def run_part(name: str, seconds: float, small: bool, folder: Path) -> Values:
    """A part in a process group that ends with its time; its row of the result."""
    none: Values = {"part": name, "status": "left out", "why": "no time was left", "seconds": 0.0, "values": {}}
    if seconds < LEAST_SECONDS:
        return none
    into, log, t_start = folder / f"{name}.json", folder / f"{name}.log", time.monotonic()
    command = ["timeout", "-s", "KILL", f"{seconds:.1f}", sys.executable, "-m", "pgolf_core.lab.bench.proof.command"]
    command += ["--part", name, "--into", str(into), *(["--small"] if small else [])]
    with log.open("wb") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=child_environment()).returncode
    if into.exists():
        return {"part": name, **read_json(into)}
    spent, last = time.monotonic() - t_start, log.read_text(errors="replace").strip().rpartition("\n")[2][-200:]
    why = f"not done in its {seconds:.0f} seconds" if spent >= seconds else f"ended with {status}: {last}"
    return none | {"status": "failed", "why": why, "seconds": spent}


def prove(names: Sequence[str], seconds: float, small: bool, folder: Path) -> Iterator[Values]:
    """A row for every part: those that are timed one after another, then the others side by side."""
    t_end, together = time.monotonic() + seconds, [name for name in TOGETHER if name in names]
    kept = min(TOGETHER_SECONDS, seconds / 2) if together else 0.0
    for name, (most, _) in TIMED.items():
        if name in names:
            left = t_end - kept - time.monotonic()
            yield run_part(name, left if small else min(left, most), small, folder)  # a CPU compiles slowly
    with ThreadPoolExecutor(len(together) or 1) as pool:
        left = t_end - time.monotonic()
        yield from pool.map(lambda name: run_part(name, left, small, folder), together)


def goal_rows(rows: Sequence[Values], rehearsal: bool) -> list[Values]:
    """Every goal: what was measured and whether it is met; None where nothing was measured, or on small shapes."""
    shown, found = [row["values"] for row in rows if "measure" in row["values"]], []
    for goal in PROOF_GOALS:
        none = {"goal": goal.what, "recipe": ", ".join(goal.of), "sense": goal.sense, "bound": goal.bound,
                "unit": goal.unit, "measured": None, "met": None}  # fmt: skip
        for row in judged(shown, [goal]) or [none]:
            found.append(row | {"published": goal.published} | ({"met": None} if rehearsal else {}))
    return found


def environment() -> Values:
    """Versions and device, and which core was measured."""
    device, versions = {"device": "cpu"}, {"python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        device = {"device": torch.cuda.get_device_name(), "capability": str(torch.cuda.get_device_capability())}
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return {**device, "versions": versions, "core_sha256": core_sha256()}


def proof_text(result: Values) -> str:
    """The tables that people read."""
    shown = [(row["part"], row["status"], row["why"], f"{row['seconds']:.0f}") for row in result["parts"]]
    said = {True: "met", False: "not met", None: "rehearsed" if result["rehearsal"] else "not measured"}
    goals = [(*goal_cells(row), row["published"], said[row["met"]]) for row in result["goals"]]
    told = ["a rehearsal with small shapes: no number of it is a result"] if result["rehearsal"] else []
    header = ("goal (medians)", "wanted", "measured", "published", "")
    tables = table_text(("part", "", "why", "seconds"), shown, left=3), table_text(header, goals, left=2)
    return "\n\n".join((*told, f"{result['env']['device']}, torch {result['env']['versions']['torch']}", *tables))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove, write the JSON file, print tables; exit status 1 if a part failed or was left out."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m pgolf_core.lab.bench.proof.command", description=about)
    option = parser.add_argument
    option("--out", type=Path, metavar="FILE.json", help="where the result goes (default: runs/cuda-proof/<time>.json)")
    listed = f"only these of {', '.join(PARTS)} (default: all)"
    option("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=listed)
    about = f"for everything (default {TOTAL_SECONDS:g}, {REHEARSAL_SECONDS:g} in a rehearsal)"
    option("--seconds", type=span_seconds, metavar="S", help=about)
    option("--small", action="store_true", help="small shapes, as where there is no GPU")
    option("--part", choices=PARTS, help=argparse.SUPPRESS)
    option("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    small = options.small or not torch.cuda.is_available()
    if options.part:
        show_part(options.part, SMALL if small else Shape(), options.into)
        return 0
    begun = datetime.datetime.now(datetime.UTC)
    seconds = options.seconds or (REHEARSAL_SECONDS if small else TOTAL_SECONDS)
    path = options.out or find_root() / "runs" / "cuda-proof" / f"{begun:%Y%m%dT%H%M%SZ}.json"
    result: Values = {"format": 1, "begun": begun.isoformat(timespec="seconds"), "rehearsal": small}
    result |= {"env": environment(), "parts": []}
    with tempfile.TemporaryDirectory(prefix="pgolf-") as folder:
        for row in prove(options.parts, seconds, small, Path(folder)):
            print(f"{row['part']}: {row['status']} {row['why']}", file=sys.stderr, flush=True)
            result["parts"].append(row)
            result["seconds"] = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
            write_json(path, result | {"goals": (goals := goal_rows(result["parts"], small))})
    print(proof_text(result | {"goals": goals}))
    print(f"wrote {short_path(path)}", file=sys.stderr)
    return int(any(row["status"] != "done" for row in result["parts"]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
