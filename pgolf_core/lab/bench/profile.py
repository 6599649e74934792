"""Where the time of one training step goes: torch.profiler's table of its operators."""

import textwrap
from collections.abc import Iterable
from typing import Any

import torch
from torch._inductor import config as inductor

from pgolf_core.lab.bench.measures import Task
from pgolf_core.lab.bench.step import StepArm
from pgolf_core.lab.shared.tables import table_text, width

ROWS = 25


def profile_step(task: Task, arm: str = "fast") -> dict[str, Any]:
    """Run one step of a recipe under the profiler, after the warm-up: its operators by their own time, and a table.

    Inductor's kernels are named by what they fuse. To be called in a process of its own: it changes how they are made.
    """
    inductor.cpp.enable_kernel_profile = True
    recipe, device, makers = task.begin()
    ready = makers[arm]()
    for _ in range(task.effort.warmups):
        ready.run()
    about = {"recipe": recipe.name, "fingerprint": recipe.fingerprint, "arm": arm, "path": ready.path}
    return about | operators_of(ready, device)


def operators_of(ready: StepArm, device: torch.device) -> dict[str, Any]:
    """One step of an arm under the profiler: its seconds, and the operators that take most by their own time."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(
        activities=[activity.CPU, *([activity.CUDA] if device.type == "cuda" else [])]
    ) as found:
        seconds = ready.run()
    return {
        "micro_batch_tokens": ready.recipe.data.batch_tokens, "step_seconds": seconds, "by": f"self {device.type} time",
        "operators": by_time(found.key_averages(), device.type),
    }  # fmt: skip


def by_time(rows: Iterable[Any], kind: str) -> list[dict[str, Any]]:
    """The profiler's rows by falling time on a cpu or cuda; on cuda those of kernels alone, for what launches a kernel
    has its time as well."""
    attribute = "self_device_time_total" if kind == "cuda" else "self_cpu_time_total"
    own = [row for row in rows if row.device_type.name == kind.upper() and not row.is_user_annotation]
    times = sorted(((getattr(row, attribute), row) for row in own), key=lambda pair: -pair[0])
    total = sum(time for time, _ in times)
    return [
        {"name": row.key, "calls": row.count, "self_seconds": time / 1e6, "share": time / total}
        for time, row in times[:ROWS]
    ]


def profile_text(found: dict[str, Any]) -> str:
    """What was profiled, and the operators as a table."""
    head = (
        "one step of {recipe}, {arm} arm, micro-batch of {micro_batch_tokens:,} tokens; {path}; under the profiler: "
        "micro-batch {step_seconds[micro_batch]:.3f} s, update {step_seconds[update]:.3f}, of which Muon "
        "{step_seconds[muon]:.3f}; operators by {by}:"
    ).format(**found)
    rows = [
        (row["name"][:120], f"{row['share']:.1%}", f"{row['self_seconds']:.4f}", row["calls"])
        for row in found["operators"]
    ]
    return textwrap.fill(head, width()) + "\n" + table_text(("operator", "share", "seconds", "calls"), rows)
