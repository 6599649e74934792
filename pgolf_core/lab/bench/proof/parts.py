"""What one GPU must show, part by part: at a record's full shape what is timed, and small runs whole.

A part gets an empty folder and returns plain values for JSON; one with a `fault` has failed. bench.proof.command gives
each a process.
"""

import contextlib
import dataclasses
import datetime
import functools
import math
import os
import re
import signal
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pgolf_core.base.device import autocast_dtype, autocasting, pick_device
from pgolf_core.base.files import UserError, read_json
from pgolf_core.base.names import RAW_WEIGHTS, SEED_RESULT
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.lab.bench.clock import FULL, QUICK, Effort, Seconds, counted, in_child, in_turns, peak_during, spread
from pgolf_core.lab.bench.goals import MUON_TOKENS, Values
from pgolf_core.lab.bench.measures import PackingArm, SlidingArm, Task, measure, timed
from pgolf_core.lab.bench.profile import operators_of
from pgolf_core.lab.bench.step import SEED, StepArm, random_data
from pgolf_core.lab.data.sotu import prepare_named
from pgolf_core.lab.shared.places import child_environment, find_root
from pgolf_core.lab.shared.texts import FINEWEB_TARGETS
from pgolf_core.network.attention import causal_attention
from pgolf_core.network.model import build_model
from pgolf_core.packing.correction import Gathering, gather
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.seed import run_seed
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.loop import TrainData, train
from pgolf_core.training.progress import TrainProgress

RANKS = 8
NOT_HERE = "not on this device"
KILLED_AT = 6
FEW_TURNS = dataclasses.replace(FULL, most=12, budget_seconds=10.0)


@dataclass(frozen=True)
class Shape:
    """How large everything is; as it stands, a record's own size."""

    overrides: tuple[str, ...] = ()
    step_tokens: int = MUON_TOKENS
    plain_seqs: int = 8
    """Of a micro-batch of the plain step, which keeps every score of attention."""
    sliding_targets: int = 2_000_000
    effort: Effort = FEW_TURNS
    smoke: tuple[str, ...] = ()
    compile: str = "auto"
    """Of the short runs."""


SMALL = Shape(
    ("model.num_layers=2", "model.model_dim=64", "model.num_heads=4", "model.num_kv_heads=2", "model.mlp_hidden=96",
     "model.rope_dims=8", "model.xsa_last_n=1", "model.bigram_rows=32", "model.bigram_dim=16", "data.seq_len=64",
     "data.batch_tokens=1024", "eval.seq_len=64", "eval.stride=16", "eval.batch_seqs=8",
     "quant.small_tensor_elements=64", "quant.correction_tokens=512"),
    step_tokens=512, plain_seqs=4, sliding_targets=1000, effort=QUICK, compile="off",
    smoke=("schedule.iterations=3", "schedule.val_every_steps=0", "eval.seq_len=256", "eval.stride=256"),
)  # fmt: skip


def overrides_of(name: str, shape: Shape) -> tuple[str, ...]:
    """What makes a recipe as small as the shape; a loop and parallel blocks fit into its few layers too."""
    looped = shape.overrides and load_recipe(name).model.num_loops
    more = ("model.loop_start=0", "model.loop_end=0", "model.parallel_start=1") if looped else ()
    return (*more, *shape.overrides)


def one_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def tried(work: Callable[[], Any]) -> Any:
    """What work() gives, or why it does not: one number that fails must not cost a part the others."""
    try:
        return work()
    except Exception as error:
        traceback.print_exc()
        return {"failed": one_line(error)}


# ---------------------------------------------------------------------- the step


class OneOfEight(World):
    """One rank's share of Muon's matrices, as if seven others did theirs; nothing travels, and time alone is right."""

    def shared_out(self, work: Callable[[Tensor], Tensor], stack: Tensor) -> Callable[[], Tensor]:
        part = work(stack[: -(-len(stack) // RANKS)])
        return lambda: part.repeat(RANKS, 1, 1)[: len(stack)]


def step(shape: Shape, folder: Path, name: str) -> Values:
    """The compiled step against the plain one by turns; its graph, memory and profile, and where the host waits."""
    overrides = overrides_of(name, shape)
    seqs = shape.step_tokens // load_recipe(name, overrides).data.seq_len
    task = Task("step", name, overrides, shape.effort, torch.get_num_threads(), seqs, shape.plain_seqs)
    recipe, device, makers = task.begin()
    fast, counters = makers["fast"](), torch._dynamo.utils.counters
    counters.clear()  # of what tried whether there is a compiler
    first = fast.run()
    fast.run()
    memory = peak_during(fast.run, device)
    graph = {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}
    values = timed(task, recipe, device, {"plain": makers["plain"](), "fast": fast})
    fast.trainer.optimizers.muon.world = OneOfEight()
    turns = in_turns({"fast": fast.run}, shape.effort, task.label)[0]["fast"]
    whole = turns["micro_batch"] + turns["update"]
    return values | {
        "first_step_seconds": first["micro_batch"] + first["update"], "graph": graph, "peak_memory": {"fast": memory},
        "one_rank": {"step_seconds": spread(whole), "muon_share": spread(turns["muon"] / whole)},
        "pieces": tried(lambda: pieces(fast, device, shape.effort)),
        "host_waits": tried(lambda: host_waits(fast._step, device)),
        "profile": tried(lambda: operators_of(fast, device)),
    }  # fmt: skip


def host_waits(run: Callable[[], Any], device: torch.device) -> dict[str, int] | str:
    """How often, by file and line, the host waits for the GPU in run()."""
    if device.type != "cuda":
        return NOT_HERE
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        run()
        torch.cuda.set_sync_debug_mode("default")
    return dict(Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in said))


def pieces(arm: StepArm, device: torch.device, effort: Effort) -> Values:
    """Seconds, forward and backward, of a step's head with its loss, and of all layers' attention by each kernel."""
    config, data, autocast = arm.recipe.model, arm.recipe.data, arm.recipe.schedule.autocast
    rows, length, width = data.micro_batch_seqs, data.seq_len, config.model_dim // config.num_heads
    random = functools.partial(torch.randn, device=device, dtype=autocast_dtype(device, autocast), requires_grad=True)
    model, x = build_model(config, SEED).to(device), random(rows, length, config.model_dim)
    model.trunk = lambda ids, stop=None, documents=None, first=0: (x[:, first:], x)  # type: ignore[method-assign]
    compiled = arm.trainer.loss_of is not arm.trainer.model
    loss_of = torch.compile(model, dynamic=False, fullgraph=True) if compiled else model
    ids = torch.randint(config.vocab_size, (rows, length), device=device)
    q, k, v = (random(rows, length, n, width) for n in (config.num_heads, *[config.num_kv_heads] * 2))
    gradient = torch.randn_like(q)

    def head() -> Seconds:
        spent: Seconds = {}
        with counted(spent, "whole", device):
            with autocasting(device, autocast):
                loss = loss_of(ids, ids)
            loss.backward()
        return spent

    def attention(backend: SDPBackend | None = None) -> Seconds:
        spent: Seconds = {}
        with sdpa_kernel(backend) if backend else contextlib.nullcontext(), counted(spent, "whole", device):
            for _ in range(config.num_layers):
                torch.autograd.grad(causal_attention(q, k, v), (q, k, v), gradient)
        return spent

    works: dict[str, Callable[[], Seconds]] = {"head and loss": head, "attention, as chosen": attention}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION) if device.type == "cuda" else ():
        works[f"attention, {backend.name}"] = functools.partial(attention, backend)

    def quartiles(work: Callable[[], Seconds]) -> dict[str, float | int]:
        return spread(in_turns({"": work}, effort, "")[0][""]["whole"])

    return {name: tried(functools.partial(quartiles, work)) for name, work in works.items()}


# ---------------------------------------------------------------------- score and packing


def sliding(shape: Shape, folder: Path, name: str) -> Values:
    """The sliding score: against the plain way by turns, then of many targets as it is and compiled."""
    effort = dataclasses.replace(shape.effort, warmups=1, least=2, sliding_flops=1e18)  # the most windows there are
    values = measure(Task("sliding", name, shape.overrides, effort, torch.get_num_threads()))
    recipe, device = load_recipe(name, shape.overrides), pick_device()
    batch = recipe.eval.batch_seqs
    windows = 1 + batch * math.ceil(shape.sliding_targets / recipe.eval.stride / batch)  # the first is a batch alone
    few, many = (SlidingArm(recipe, device, True, windows=n) for n in (1 + batch, windows))
    targets, seconds = len(many.tokens) - 1, {}
    for how in ("as it is", "compiled"):
        if how == "compiled":
            few.model.token_losses = torch.compile(many.model.token_losses, dynamic=False)  # type: ignore[method-assign]
            many.model.token_losses = few.model.token_losses  # type: ignore[method-assign]
        few.run()
        seconds[how] = many.run()["whole"]
    whole = {how: spent * FINEWEB_TARGETS / targets / RANKS for how, spent in seconds.items()}
    return values | {"targets": targets, "seconds_of_targets": seconds, "whole_split_seconds": whole}


def correction(shape: Shape, folder: Path, name: str) -> Values:
    """GPTQ: gathering on the device, how far that is from the CPU's, correcting and packing."""
    recipe, device = load_recipe(name, (*shape.overrides, 'quant.correction="hessian"')), pick_device()
    arm, how = PackingArm(recipe), Gathering(recipe, device, ALONE)
    ids = torch.randint(recipe.model.vocab_size, (how.windows, how.length))
    weights, spent = {key: w.to(device) for key, w in arm.state.items()}, Seconds()
    for part in ("gather, first", "gather"):
        with counted(spent, part, device):
            arm.options["hessians"] = gather(recipe, weights, ids, device, ALONE)
    cpu = gather(recipe, arm.state, ids[:1], torch.device("cpu"), ALONE).means
    one = gather(recipe, weights, ids[:1], device, ALONE).means
    off = max(float((one[key].cpu() - mean).norm() / mean.norm()) for key, mean in cpu.items())
    return {"seconds": spent | arm.run(), "tokens": ids.numel(), "relative_difference_from_cpu": off, **arm.about}


# ---------------------------------------------------------------------- small runs


def short_run(shape: Shape, folder: Path) -> tuple[Recipe, TrainData]:
    """The smoke recipe for a few steps, a checkpoint after each; random tokens."""
    how = {"iterations": 12, "max_seconds": 0.0, "val_every_steps": 0, "checkpoint_every_seconds": 1e-9}
    plan = [f"schedule.{key}={value}" for key, value in how.items()]
    recipe = load_recipe("local-smoke", [*plan, f'schedule.compile="{shape.compile}"', "data.spans_per_step=2"])
    folder.mkdir(parents=True, exist_ok=True)
    return recipe, random_data(recipe, folder)


def run_to_the_kill(shape: Shape, folder: Path, threads: int) -> None:
    """A training that is killed in its step KILLED_AT, with as many threads: long sums differ by them in last bits."""
    torch.set_num_threads(threads)
    recipe, data = short_run(shape, folder / "data")

    def kill(told: TrainProgress) -> None:
        if told.step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    train(recipe, SEED, data, folder / "killed", progress=kill)


def farthest(folder: Path, one: str, other: str) -> float:
    """Largest difference of two runs' last weights; 0 means the same bits."""
    ours, theirs = (load_tensors(folder / name / RAW_WEIGHTS)[0] for name in (one, other))
    return max(float((w - theirs[key]).abs().max()) for key, w in ours.items())


def resume(shape: Shape, folder: Path) -> Values:
    """A run twice whole, and once killed and gone on: the third is as near to the first as the second is."""
    recipe, data = short_run(shape, folder / "data")
    for run in ("whole", "again"):
        train(recipe, SEED, data, folder / run)
    with contextlib.suppress(UserError):  # it says that the process ended
        in_child(run_to_the_kill, shape, folder, torch.get_num_threads())
    resumed = train(recipe, SEED, data, folder / "killed").resumed_at_steps
    again, killed = (farthest(folder, "whole", run) for run in ("again", "killed"))
    promised = "the same bits" if again == 0 else "as near as two whole runs are: this device does not repeat itself"
    wrong = killed > 4 * again or resumed != [KILLED_AT - 1]
    fault = f"resumed at {resumed}, {killed:g} off; two whole runs: {again:g}" if wrong else ""
    return {"promised": promised, "whole_runs_differ": again, "killed_differs": killed, "fault": fault}


def one_of_two(rank: int, shape: Shape, folder: Path, backend: str) -> None:
    """One of two ranks on one device; the first error is written down."""
    try:
        meeting, patience = f"file://{folder}/{backend[-4:]}.store", datetime.timedelta(seconds=40)
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=2, timeout=patience)
        recipe, data = short_run(shape, folder / f"data{rank}")
        train(recipe, SEED, data, folder / backend, world=World(rank, 2))
        World(rank, 2).meet()
    except Exception as error:
        with contextlib.suppress(FileExistsError), (folder / f"{backend}.error").open("x") as file:
            file.write(one_line(error))
    os._exit(0)


def two_ranks(shape: Shape, folder: Path) -> Values:
    """Two ranks on one device against one: by gloo, and by NCCL, which may refuse two ranks on a device."""
    recipe, data = short_run(shape, folder / "data")
    train(recipe, SEED, data, folder / "one")
    found: Values = {}
    for backend in ("gloo", "cpu:gloo,cuda:nccl"):
        if "nccl" in backend and not torch.cuda.is_available():
            found[backend] = NOT_HERE
            continue
        spawn = get_context("spawn").Process
        ranks = [spawn(target=one_of_two, args=(rank, shape, folder, backend)) for rank in (0, 1)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(90)
            process.kill()
        error, done = folder / f"{backend}.error", (folder / backend / RAW_WEIGHTS).exists()
        refused = error.read_text() if error.exists() else "the ranks came to no end"
        found[backend] = farthest(folder, "one", backend) if done else refused
    works = any(isinstance(value, float) for value in found.values())
    return {"farthest_from_one_rank_or_why_not": found, "fault": "" if works else f"none works: {found}"}


def smoke(shape: Shape, folder: Path) -> Values:
    """One seed of local-smoke on real text, whole: its result."""
    recipe = load_recipe("local-smoke", shape.smoke)
    dataset = prepare_named(recipe.data.dataset, folder / "cache")
    run_seed(recipe, SEED, dataset.folder, dataset.tokenizer_path, folder / "seed", ALONE, Path(__file__))
    return read_json(folder / "seed" / SEED_RESULT)


def tests(shape: Shape, folder: Path) -> Values:
    """The tests marked cuda: pytest's words on them."""
    workers = min((os.cpu_count() or 1) // 4, 4)
    words = f"-m pytest -q -rfEs -m cuda -n {workers} -p no:cacheprovider tests/whole/test_cuda.py"
    command = [sys.executable, *words.split()]
    found = subprocess.run(command, cwd=find_root(), env=child_environment(), capture_output=True, text=True)
    lines = [line for line in found.stdout.splitlines() if re.match(r"(FAILED|ERROR|SKIPPED|\d+ \w+.* in )", line)]
    fault = f"pytest ended with {found.returncode}: {(lines or [found.stderr[-200:]])[-1]}" if found.returncode else ""
    return {"lines": lines, "fault": fault}
