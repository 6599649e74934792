"""A submission folder as `pgolf verify` reads it: which files it holds and what they say, each read once and bounded.

The folder may be this project's or any of the published form. Scripts are parsed, and a packed one unwrapped; none is
run.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgolf_core.base.files import sha256_file
from pgolf_core.lab.shared.places import SCRIPT, SUBMISSION_FILE
from pgolf_core.lab.shared.settings import is_number
from pgolf_core.lab.shared.texts import FINEWEB_TRACK
from pgolf_core.lab.verify.code.shipped import Code, imports_of, parsed, running
from pgolf_core.lab.verify.evidence.checks import CannotCheck, hold, needed, once, quietly, require
from pgolf_core.lab.verify.evidence.score import computing_path, judge_score, kept_sums
from pgolf_core.lab.verify.evidence.text import TEXT_OF_TRACK, Way
from pgolf_core.lab.verify.reading.keys import claimed, claims_of, rows_of
from pgolf_core.lab.verify.reading.logs import Log, read_log
from pgolf_core.lab.verify.reading.numbers import is_score, same_score
from pgolf_core.lab.verify.reading.reviewed import Reviewed, header_of
from pgolf_core.lab.verify.reading.untrusted import json_object, list_files, read_code, read_text
from pgolf_core.recipes.recipe import TRACK_CAP_BYTES, Recipe, from_dict, to_dict

if TYPE_CHECKING:
    from pgolf_core.lab.data.dataset import Dataset

SUSPICIOUS = ("socket", "urllib", "http", "requests", "ftplib", "httpx", "aiohttp", "huggingface_hub", "subprocess")
WEIGHT_ENDINGS = (".ptz", ".pt", ".pth", ".bin", ".safetensors", ".npz", ".npy", ".pkl", ".xz", ".lzma", ".br", ".zst",
                  ".zip", ".gz", ".tar", ".7z", ".ckpt")  # fmt: skip
"""Files that may hold weights in another project's format; they are weighed and not opened."""
NO_WEIGHTS = "the weight file is not in the folder"
LOG_ENDINGS, NO_LOGS = (".log", ".txt", ".out"), ("requirements", "licen", "readme", "cmakelists", "pr_body")
MAX_LOGS = 64
MAX_SCRIPT_BYTES = 2**20
MAX_README_BYTES = 2 * 2**20
MAX_ARTIFACTS = 16
OF_THE_SEED = {
    "scores_sha256": "scores_sha256", "adapt_sha256": "adapt_sha256", "adapting_seconds": "adapting_seconds",
    "adapted_bpb": "val_bpb", "adapted_loss": "val_loss",
}  # fmt: skip
"""What is claimed of the seed whose artifact lies in the folder, and its key in the table of seeds."""
_NO_RECORD = re.compile(r"non.?record|unlimited", re.I)
_TIMED = re.compile(r"10.?min", re.I)


class Submission(Reviewed):
    """One folder."""

    files = once(lambda self: list_files(self.folder))
    script = once(lambda self: read_code(self.script_path, MAX_SCRIPT_BYTES))

    @once
    def claims(self) -> dict[str, Any]:
        """submission.json."""
        require(SUBMISSION_FILE in self.files, f"there is no {SUBMISSION_FILE}")
        return needed(f"a whole {SUBMISSION_FILE}", lambda: json_object(self.files[SUBMISSION_FILE]))

    @once
    def readme(self) -> str:
        names = [name for name in self.files if name.lower() in ("readme.md", "readme.txt", "readme")]
        require(bool(names), "there is no README.md")
        return read_text(self.files[names[0]], MAX_README_BYTES)

    @once
    def logs(self) -> list[Log]:
        """Every file that ends as a log does and holds a step of training or a score, each of its seed if one is known.

        A log that names no seed is of the only seed that is claimed, or of the one whose claimed score it has.
        """
        names = [name for name in self.files
                 if name.endswith(LOG_ENDINGS) and not Path(name).name.lower().startswith(NO_LOGS)]  # fmt: skip
        require(bool(names), "there is no log")
        require(len(names) <= MAX_LOGS, f"{len(names)} logs are more than the {MAX_LOGS} that are read")
        read = (read_log(self.files[name], name) for name in names)
        logs = [log for log in read if log.steps is not None or log.finals]
        named = quietly(lambda: self.seeds) or []
        for log in logs:
            if log.seed is None:
                its = named if len(named) == 1 else [seed for seed in named if self.is_backed(seed, log)]
                log.seed = its[0] if len(its) == 1 else None
        return logs

    def is_backed(self, seed: int | None, log: Log) -> bool:
        """Whether a final score of a log is the one that is claimed for a seed."""
        claims = (quietly(lambda: self.seed_claims) or {}).get(seed, {}) if seed is not None else {}
        said = quietly(lambda: claimed(claims or self.claims, "bpb"))
        return any(said and same_score(said, one.bpb) for one in log.finals)

    @once
    def logs_of(self) -> dict[int | None, list[Log]]:
        """Logs of every seed: first those that trained, then whose score is the claimed one, then that say most."""

        def weight(log: Log) -> tuple[bool, bool, int]:
            said = len(log.finals) + len(log.sizes["total_bytes"])
            return log.steps is not None, self.is_backed(log.seed, log), said

        found: dict[int | None, list[Log]] = {log.seed: [] for log in self.logs}
        for log in sorted(self.logs, key=weight, reverse=True):
            found[log.seed].append(log)
        return found

    @once
    def runs(self) -> dict[int | None, Log]:
        """The one log of every seed that the claims rest on; logs of a score alone only where no seed has another."""
        first = {seed: logs[0] for seed, logs in self.logs_of.items()}
        return {seed: log for seed, log in first.items() if log.steps is not None} or first

    @once
    def used_logs(self) -> list[Log]:
        """Of every seed the log of its training, and the one of its claimed score where that is another."""
        scored = [next((log for log in logs if self.is_backed(seed, log)), None) for seed, logs in self.logs_of.items()]
        return list({log.name: log for log in (*self.runs.values(), *scored) if log}.values())

    @once
    def script_path(self) -> Path:
        scripts = [name for name in self.files if name.endswith(".py") and "/" not in name]
        require(bool(scripts), "there is no script")
        return self.files[min(scripts, key=lambda name: (name != SCRIPT, "train" not in name))]

    @once
    def code(self) -> dict[str, Code]:
        """The script and every file that it imports or names, and so on, as far as their texts show."""
        return running(self.files, self.script_path.name, lambda path: read_code(path, MAX_SCRIPT_BYTES))

    @once
    def source(self) -> str:
        """The script's text, unwrapped where it is packed."""
        return self.code[self.script_path.name].source

    code_bytes = once(lambda self: sum(code.size for code in self.code.values()))

    @once
    def artifacts(self) -> list[Path]:
        """Files in this project's format, by their name."""
        found = [path for name, path in self.files.items() if name.endswith(".pgolf")]
        hold(len(found) <= MAX_ARTIFACTS, f"{len(found)} artifacts are more than the {MAX_ARTIFACTS} that are opened")
        return found

    @once
    def artifact(self) -> Path:
        require(bool(self.artifacts), self.no_artifact)
        return self.artifacts[0]

    @once
    def weights(self) -> dict[str, int]:
        """Bytes of every file that may hold the model: those in this project's format, else those in others'."""
        endings = ".pgolf" if self.artifacts else WEIGHT_ENDINGS
        return {name: path.stat().st_size for name, path in self.files.items() if name.endswith(endings)}

    @property
    def no_artifact(self) -> str:
        """Why none can be opened, where there is none."""
        sizes = ", ".join(f"{name} ({size:,} bytes)" for name, size in list(self.weights.items())[:3])
        return f"{sizes} is not in this project's format and is not opened" if sizes else NO_WEIGHTS

    @once
    def track_said(self) -> str:
        """The track as submission.json has it, else the folder's path."""
        for part in (self.claims.get("track"), *self.folder.resolve().parts[::-1]):
            name = str(part).removeprefix("track_")
            if name in TRACK_CAP_BYTES or "16mb" in name.lower():
                return name
        raise CannotCheck("no file says on which track it is")

    track = once(lambda self: self.track_said if self.track_said in TRACK_CAP_BYTES else FINEWEB_TRACK)

    @once
    def clock(self) -> str | None:
        """The track if it has a clock, empty if it has none, None if no file says which it is.

        What is not for the record has none, by submission.json or by the folder's path.
        """
        claims = quietly(lambda: self.claims) or {}
        track, parts = str(claims.get("track") or ""), self.folder.resolve().parts[::-1]
        place = next((part for part in parts if _NO_RECORD.search(part) or _TIMED.search(part)), "")
        if _NO_RECORD.search(track) or _NO_RECORD.search(place):
            return ""
        named = [text for text in (track, place) if _TIMED.search(text)]
        return named[0] if named else "" if "16mb" in track.lower() else None

    @once
    def seed_claims(self) -> dict[int, dict[str, Any]]:
        """{seed: claimed values} of submission.json, empty where it tells none apart; Broken for a seed with two."""
        return rows_of(self.claims)

    @once
    def tables(self) -> dict[str, dict[str, Any]]:
        """{where: claimed values} of the whole and of every seed."""
        return {SUBMISSION_FILE: self.claims} | {f"seed {seed}": row for seed, row in self.seed_claims.items()}

    @once
    def seeds(self) -> list[int]:
        """Every seed that submission.json names."""
        listed = self.claims.get("seeds")
        found = [seed for seed in listed if not isinstance(seed, dict)] if isinstance(listed, list) else []
        found = [int(one) if isinstance(one, str) and re.fullmatch(r"[0-9]{1,19}", one) else one for one in found]
        odd = [str(seed)[:40] for seed in found if type(seed) is not int]
        hold(not odd, f"{SUBMISSION_FILE} names a seed that is none ({odd[:1]})")
        hold(len({*found}) == len(found), f"{SUBMISSION_FILE} names a seed twice in its seeds {found[:20]}")
        return sorted({*found, *self.seed_claims})

    @once
    def artifact_seed(self) -> int | None:
        """The seed whose artifact lies in the folder: by hash, by size; None where no file says."""
        header_of(self.artifact)  # which refuses what is too large to be hashed
        is_hashed = any("artifact_sha256" in row for row in self.seed_claims.values())
        what, own = "hash" if is_hashed else "size", str(self.artifact.stat().st_size)
        if is_hashed:
            digest = sha256_file(self.artifact)
            seeds = [seed for seed, row in self.seed_claims.items() if row.get("artifact_sha256") == digest]
        else:
            sizes = {seed: [one.text for one in claims_of(row) if one.name == "model_bytes"]
                     for seed, row in self.seed_claims.items()}  # fmt: skip
            seeds = [seed for seed, texts in sizes.items() if own in texts]
        if not seeds and not is_hashed:
            return self.seeds[0] if len(self.seeds) == 1 else None
        hold(bool(seeds), f"the hash of the artifact is that of no seed in {SUBMISSION_FILE}")
        require(len(seeds) == 1, f"the {what} of the artifact is that of seeds {seeds}")
        return seeds[0]

    def said(self, name: str) -> Any:
        if name not in OF_THE_SEED:
            return self.claims.get(name)
        row = {} if self.artifact_seed is None else self.seed_claims.get(self.artifact_seed, {})
        return row.get(OF_THE_SEED[name])

    def claims_adapting(self) -> bool:
        tables = [self.claims, *self.seed_claims.values()]
        names = ("adapt_sha256", "adapting_seconds", "frozen_val_bpb")
        return any(table.get(name) is not None for table in tables for name in names)

    @once
    def recipe(self) -> Recipe:
        """As the script of `pgolf export` has it."""
        return needed("a recipe in the script", lambda: from_dict(recipe_of(self.source)))

    @once
    def dataset(self) -> Dataset:
        """The prepared dataset that the scores are of: the one named, or the only one of the claimed size."""
        artifact = self.artifact  # without one nothing of what follows is imported
        from pgolf_core.lab.data.dataset import prepared_datasets
        from pgolf_core.text.shards import shard_tokens

        if self.how.data:
            return self.opened(self.how.data)
        vocab_size, targets = header_of(artifact)["model"]["vocab_size"], self.said("val_targets")
        known = [one for one in prepared_datasets(self.how.cache_dir or None) if one.vocab_size == vocab_size]
        if is_number(targets):
            known = [one for one in known if sum(map(shard_tokens, one.val_paths)) - 1 == targets]
        known = [one for one in known if one.name.startswith(TEXT_OF_TRACK[self.track][0])] or known
        names = ", ".join(one.name for one in known) or "none"
        require(len(known) == 1, f"prepared datasets of {vocab_size} pieces and the claimed size: {names}; give --data")
        return known[0]

    @once
    def way(self) -> Way:
        """Window and stride of the score: as the script's recipe has them, else submission.json, else README."""
        recipe = quietly(lambda: recipe_of(self.source)) or {"eval": {}, "schedule": {}}
        found, claims = recipe["eval"], self.claims
        text = "" if {"seq_len", "stride"} <= set(found) else self.readme
        window: Any = found.get("seq_len") or claims.get("window") or _after(r"\bwindow", text)
        said = [claims[key] for key in ("sliding_stride", "eval_stride", "stride") if claims.get(key)]
        stride: Any = found.get("stride") or next(iter(said), None) or _after(r"\bstride", text)
        is_known = type(window) is int and type(stride) is int
        require(is_known, f"neither the script nor {SUBMISSION_FILE} nor README.md says which window and stride")
        mode = recipe["schedule"].get("autocast")
        if mode != "off":
            mode = "off" if "| compute: float32" in self.computed_on else "auto"
        return Way(window, stride, min(32, max(1, 2**15 // max(window, 1))), mode, found.get("document_mask") is True)

    def judge_score(self, kind: str) -> str:
        found, seed = self.scoring.score(kind), self.artifact_seed
        about = f"{found['bpb']:.8f} bpb"
        if seed is None:
            raise CannotCheck(f"no file says of which seed the artifact is; it scores {about}")
        values = self.seed_claims.get(seed) or (self.claims if len(self.seeds) < 2 else {})
        frozen = "frozen_" if claimed(values, "frozen_bpb") else ""
        names = {"bpb": f"{frozen}bpb", "loss": f"{frozen}loss"} if kind == "sliding" else {"bpb": "roundtrip_bpb"}
        said = {key: text for key, name in names.items() if (text := claimed(values, name))}
        require("bpb" in said, f"{SUBMISSION_FILE} names no such score of seed {seed}; it is {about}")
        if "n" not in found and all(is_score(text, found[key]) for key, text in said.items()):
            return f"{about} here over {found['tokens']:,} targets; seed {seed} claims {said['bpb']}"
        kept = kept_sums(found)  # which a claim is with as many digits as it is written with
        claims = {key: kept[key] if kept and is_score(text, kept[key]) else float(text) for key, text in said.items()}
        return judge_score(found, claims, computing_path(self.way.autocast, self.computed_on))

    def judge_isolation(self) -> str:
        if not self.artifacts:
            named = sorted({name.partition(".")[0] for name in imports_of(self.source)} & set(SUSPICIOUS))
            imported = f"(it imports {', '.join(named) or 'none'} of what reaches a network)"
            raise CannotCheck(f"{self.no_artifact}, and the script is not run {imported}")
        return super().judge_isolation()

    @once
    def computed_on(self) -> str:
        """What the scores were computed on, where a log says so; else empty."""
        return next((log.computed_on for log in quietly(lambda: self.logs) or () if log.computed_on), "")


def recipe_of(source: str) -> dict[str, Any]:
    """The recipe at the end of a script of `pgolf export`, which names no defaults: with all of them; of another script
    the last dictionary that has a recipe's sections. Broken where there is none."""
    nodes = parsed(source).body
    found = [node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    for name in re.findall(r"run_script\(from_dict\((\w{1,60})\), ?__file__\)", source)[-1:]:
        own = [node.value for node in found if [ast.unparse(target) for target in node.targets] == [name]]
        if own:
            return to_dict(from_dict(ast.literal_eval(own[-1]), "the script's recipe"))
    recipe = ast.literal_eval(found[-1].value) if found else {}
    hold(all(isinstance(recipe.get(part), dict) for part in ("eval", "schedule")), "the script ends with no recipe")
    return recipe


def _after(word: str, text: str) -> int | None:
    """The one number that follows a word wherever it stands; None where there are several, or none."""
    numbers = {int(number) for number in re.findall(rf"{word}[ :=]{{1,2}}(\d{{1,7}})\b", text, re.IGNORECASE)}
    return numbers.pop() if len(numbers) == 1 else None
