"""Where the time of one training step goes: torch.profiler's table of its operators."""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor import config as inductor

from pgolf_core.base import device as machine
from pgolf_core.lab.bench.measures import Task
from pgolf_core.lab.bench.step import one_micro_batch, step_arms

ROWS = 25


def profile_step(task: Task, arm: str = "fast") -> dict[str, Any]:
    """Run one step of a recipe under the profiler, after the warm-up: its operators by their own time, and a table.

    Inductor's kernels are named by what they fuse. To be called in a process of its own: it changes how they are made.
    """
    inductor.cpp.enable_kernel_profile = True
    torch.set_num_threads(task.threads)
    recipe, device = task.load(), machine.pick_device()
    ready = step_arms(recipe, device, task.micro_batch_seqs)[arm]()
    for _ in range(task.effort.warmups):
        ready.run()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as found:
        seconds = ready.run()
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    operators = sorted(found.key_averages(), key=lambda row: getattr(row, attribute), reverse=True)
    total = sum(getattr(row, attribute) for row in operators)
    return {
        "recipe": recipe.name,
        "fingerprint": recipe.fingerprint,
        "arm": arm,
        "path": ready.path,
        "micro_batch_tokens": one_micro_batch(recipe, device, task.micro_batch_seqs).data.batch_tokens,
        "step_seconds": seconds,
        "by": f"self {device.type} time",
        "operators": [
            {
                "name": row.key,
                "calls": row.count,
                "self_seconds": getattr(row, attribute) / 1e6,
                "share": getattr(row, attribute) / total,
            }
            for row in operators[:ROWS]
        ],
    }


def profile_text(found: dict[str, Any]) -> str:
    """The operators as a table."""
    seconds = found["step_seconds"]
    lines = [
        f"one step of {found['recipe']}, {found['arm']} arm, micro-batch of {found['micro_batch_tokens']:,} tokens; "
        f"{found['path']}",
        f"{seconds['whole']:.3f} s under the profiler: micro-batch {seconds['micro_batch']:.3f}, update "
        f"{seconds['update']:.3f}, of which Muon {seconds['muon']:.3f}; operators by {found['by']}:",
        f"{'share':>7} {'seconds':>9} {'calls':>7}  operator",
    ]
    for row in found["operators"]:
        lines.append(f"{row['share']:>7.1%} {row['self_seconds']:>9.4f} {row['calls']:>7}  {row['name'][:120]}")
    return "\n".join(lines)
