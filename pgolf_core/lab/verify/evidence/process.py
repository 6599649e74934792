"""The fresh process that scores an artifact for `pgolf verify`: a module to run, given a job.

The job comes as one JSON object on standard input; lines of JSON go out: {"progress": …} as often as there is news, and
{"answer": …} at the end. An audit hook is set before anything beyond the standard library is imported. It ends every
attempt to reach the network, to start another program or to open a file that the job forbids (the training shards), and
notes every file that is opened. A hook sees what Python does; a library's own C code would be seen only as far as it
calls Python.
"""

import dataclasses
import functools
import json
import os
import site
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
           "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request",
           "http.client.connect", "ftplib.connect", "smtplib.connect")  # fmt: skip
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/bin", "/opt")
"""What lies here is the machine's, not a data set's or a submission's."""
MAX_NOTED = 1000
Tell = Callable[[str, int, int], None]
"""Called with (part of the answer, targets scored, targets in all)."""


class Refused(Exception):
    """Something that a scoring must not do."""


class Watch:
    """What the process did, as its audit hook saw it; from `is_scoring` on, starting programs is refused too."""

    def __init__(self, forbidden: list[str], expected: list[str], programs: list[str]):
        self.forbidden = {os.path.realpath(path) for path in forbidden} | {_identity(path) for path in forbidden}
        self.forbidden -= {None}
        self.expected = {os.path.realpath(path) for path in expected}
        self.programs = tuple(os.path.realpath(place) + os.sep for place in (*programs, *SYSTEM))
        self.read: set[str] = set()
        self.other: set[str] = set()
        self.refused: list[str] = []
        self.is_scoring = False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in NETWORK or (event in PROGRAMS and self.is_scoring):
            self._refuse(event)
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if self.forbidden and (path in self.forbidden or _identity(path) in self.forbidden):
                self._refuse(f"open {os.path.basename(path)}")
            if path in self.expected:
                self.read.add(path)
            elif len(self.other) < MAX_NOTED and not path.startswith(self.programs):
                self.other.add(path)

    def _refuse(self, what: str) -> None:
        self.refused.append(what)
        raise Refused(f"{what}: a scoring must not do this")

    def report(self) -> dict[str, Any]:
        """What was seen: `refused` attempts, `read` of the expected files, `other` files that are no program's."""
        read, other = (sorted(map(os.path.basename, found))[:10] for found in (self.read, self.other))
        return {"refused": self.refused[:10], "read": read, "other": other}


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode, by which a hard link is known too."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def main() -> None:
    """Answer the job on standard input; whatever the libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    job = json.loads(sys.stdin.read())
    programs = [sys.prefix, sys.base_prefix, *site.getsitepackages(), site.getusersitepackages(), job["program"]]
    programs += [entry.path for place in sys.path if os.path.isdir(place) for entry in os.scandir(place)
                 if entry.name.endswith((".egg-info", ".dist-info"))]  # fmt: skip
    """Metadata beside the programs, which torch reads; an editable install keeps its own in the checkout."""
    watch = Watch(job["forbidden"], job["expected"], programs)
    import torch

    torch.set_num_threads(job["threads"])
    answer = answer_to(job, watch, lambda *news: say(progress=news))
    say(answer=answer | {"seen": watch.report()})


def answer_to(job: dict[str, Any], watch: Watch | None, tell: Tell) -> dict[str, Any]:
    """{part: what was found, {"error": why not}, or {"broken": which file of the run is none}}.

    {"error": why nothing could be scored} alone.
    """
    from pgolf_core.base.files import UserError

    if job["script"]:
        return {"script": _guarded(lambda: run_script(job, watch), (Exception, SystemExit))}
    return _guarded(lambda: _score(job, watch, tell), (UserError, Refused))


def _score(job: dict[str, Any], watch: Watch | None, tell: Tell) -> dict[str, Any]:
    from pgolf_core.base.files import UserError
    from pgolf_core.lab.verify.evidence import measure, replay
    from pgolf_core.network.score import plan_windows
    from pgolf_core.packing.unpack import load_model
    from pgolf_core.recipes.recipe import Recipe, from_dict
    from pgolf_core.text.shards import load_tokens
    from pgolf_core.text.sidecar import split_bytes
    from pgolf_core.text.tokenizer import Tokenizer, need_bos

    tokenizer, way = Tokenizer(job["tokenizer"]), measure.Way(**job["way"])
    shards = [Path(shard) for shard in job["shards"]]
    tokens, table = load_tokens(shards, tokenizer.vocab_size), split_bytes(shards, tokenizer)
    model = load_model(job["artifact"])
    if watch is not None:
        watch.is_scoring = True
    if model.config.vocab_size != tokenizer.vocab_size:
        raise UserError(f"the artifact's vocabulary is {model.config.vocab_size}, the dataset's {tokenizer.vocab_size}")
    recipe = from_dict(job["recipe"]) if job["trace"] else Recipe()
    masked = dataclasses.replace(recipe.eval, document_mask=way.document_mask)
    scored = dataclasses.replace(recipe, name="the artifact", model=model.config, eval=masked)
    need_bos(scored, tokenizer.bos_id)
    budget, seed = job["budget_seconds"], job["sample_seed"]

    def score_at(stride: int, kind: str) -> dict[str, Any]:
        """The score at a stride, each of its windows held against what the run kept, where it kept any."""
        count = len(plan_windows(len(tokens) - 1, way.seq_len, stride))
        form = {kind: ("float64", count)}
        kept = measure.arrays_of(job["scores"], "nats", f"{count:,} windows", **form)[kind] if job["scores"] else None
        strided, told = dataclasses.replace(way, stride=stride), functools.partial(tell, f"stride {stride}")
        return measure.score_or_sample(model, tokens, table, strided, budget, seed, told, kept)

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "probabilities": lambda: measure.probabilities(model, tokens, way),
        "causality": lambda: measure.causality(model, tokens, way),
        f"stride {way.seq_len}": lambda: score_at(way.seq_len, "roundtrip"),
        f"stride {way.stride}": lambda: score_at(way.stride, "sliding"),
    }
    if recipe.adapt.kind != "off":
        told = functools.partial(tell, "adapting")
        parts["adapting"] = lambda: replay.replay(job["artifact"], tokens, recipe, job["trace"], budget, seed, told)
    found = {name: _guarded(work, UserError) for name, work in parts.items()}
    nats = [one.pop("per_token", None) for one in found.values()][-1]  # of the sliding or the adapted score
    if recipe.adapt.mix != "off":
        apart = {"nats_apart": list(found.values())[-1].get("apart")}
        mixed = _guarded(lambda: replay.remix(model, tokens, recipe, job["trace"], nats, seed), UserError)
        found["mixing"] = mixed | apart
    return found


def run_script(job: dict[str, Any], watch: Watch | None) -> dict[str, Any]:
    """Only with --run-code: run the folder's own script as a module, under the hook, and let it score the artifact.

    What runs is the text of the script: no bytecode beside it, which could be another's, and none is written there. A
    packed script unwraps itself into the same module.
    """
    from pgolf_core.base.files import UserError
    from pgolf_core.lab.export import CALLED

    sys.path.append(os.path.dirname(job["script"]))  # last, so that no file there takes a library's place
    module = ModuleType("reviewed_train_gpt")
    module.__file__ = job["script"]
    sys.modules[module.__name__] = module
    if watch is not None:
        watch.is_scoring = sys.dont_write_bytecode = True
    code = compile(Path(job["script"]).read_bytes(), job["script"], "exec", dont_inherit=True)  # its own __future__
    exec(code, module.__dict__)
    for name in CALLED:
        if not callable(getattr(module, name, None)):
            raise UserError(f"it has no {name} to call")
    way = job["way"]
    tokenizer = module.Tokenizer(Path(job["tokenizer"]))
    shards = [Path(shard) for shard in job["shards"]]
    tokens = module.load_tokens(shards, tokenizer.vocab_size)
    by_place = getattr(module, "sidecar_bytes", None)  # in the scripts of data.bytes = sidecar
    table = by_place(shards, tokenizer) if by_place else tokenizer.bytes
    score = module.score_artifact(
        Path(job["artifact"]), tokens, table, way["seq_len"], way["stride"], way["batch_seqs"],
        autocast=way["autocast"], **({"document_mask": True} if way["document_mask"] else {}),
    )  # fmt: skip
    return {"bpb": float(score.bpb), "loss": float(score.loss_nats_per_token), "tokens": int(score.tokens)}


def _guarded(work: Callable[[], dict[str, Any]], kinds: Any) -> dict[str, Any]:
    from pgolf_core.lab.verify.evidence.checks import Broken

    try:
        return work()
    except Broken as error:
        return {"broken": str(error)}
    except kinds as error:
        return {"error": f"{type(error).__name__}: {error}".removeprefix("UserError: ").removeprefix("Refused: ")[:500]}


if __name__ == "__main__":
    main()
