"""A submission folder as `pgolf verify` reads it: which files it holds and what they say, each read once and bounded.

The folder may be this project's or any of the published form (SEEDS.md 15). Scripts are parsed, never run.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgolf_core.lab.compare.arms import FINEWEB_TRACK
from pgolf_core.lab.data.dataset import Dataset, prepared_datasets
from pgolf_core.lab.shared.places import SCRIPT, SUBMISSION_FILE
from pgolf_core.lab.verify.evidence.checks import (
    Broken,
    CannotCheck,
    is_number,
    json_object,
    list_files,
    once,
    quietly,
    read_text,
)
from pgolf_core.lab.verify.evidence.score import Scored, Scoring, Way
from pgolf_core.lab.verify.reading.logs import Log, read_log
from pgolf_core.lab.verify.run_bytes import TEXT_OF_TRACK, header_of
from pgolf_core.recipes.rules import TRACK_CAP_BYTES
from pgolf_core.text.shards import shard_tokens

WEIGHT_ENDINGS = (".ptz", ".pt", ".pth", ".bin", ".safetensors", ".npz", ".npy", ".pkl", ".xz", ".lzma", ".br", ".zst",
                  ".zip", ".gz", ".tar", ".7z", ".ckpt")  # fmt: skip
"""Files that may hold weights in another project's format; they are weighed and not opened."""
NO_LOGS = ("requirements.txt", "licen", "readme")
MAX_LOGS = 64
MAX_SCRIPT_BYTES = 2**20
MAX_README_BYTES = 2 * 2**20
MAX_ARTIFACTS = 16
SEED_TABLES = ("seed_results", "seeds_results", "results_by_seed", "per_seed", "seeds")


class Submission(Scored):
    """One folder; what is missing or broken raises in the checks that need it."""

    def __init__(
        self, folder: Path, *, cache_dir: Path | str = "", budget_seconds: float | None = None, progress: bool = False,
        data: str = "", run_code: bool = False,
    ):  # fmt: skip
        self.folder, self.cache_dir, self.data, self.run_code = folder, cache_dir, data, run_code
        self.budget_seconds, self.progress = budget_seconds, progress

    # ------------------------------------------------------------------ files

    @once
    def files(self) -> dict[str, Path]:
        return list_files(self.folder)

    @once
    def claims(self) -> dict[str, Any]:
        """submission.json."""
        path = self.files.get(SUBMISSION_FILE)
        if path is None:
            raise CannotCheck("there is no submission.json")
        try:
            return json_object(path)
        except Broken as error:
            raise CannotCheck(f"it needs a whole submission.json ({error})") from None

    @once
    def readme(self) -> str:
        names = [name for name in self.files if name.lower() in ("readme.md", "readme.txt", "readme")]
        if not names:
            raise CannotCheck("there is no README.md")
        return read_text(self.files[names[0]], MAX_README_BYTES)

    @once
    def logs(self) -> list[Log]:
        names = [
            name for name in self.files
            if name.endswith((".log", ".txt")) and not Path(name).name.lower().startswith(NO_LOGS)
        ]  # fmt: skip
        if not names:
            raise CannotCheck("there is no log")
        if len(names) > MAX_LOGS:
            raise Broken(f"{len(names)} logs are more than the {MAX_LOGS} that are read")
        return [log for log in (read_log(self.files[name], name) for name in names) if log.steps is not None]

    @once
    def runs(self) -> dict[int | None, Log]:
        """One log of every seed, the one that says most; Broken where two logs of a seed end in different scores."""
        found: dict[int | None, Log] = {}
        for log in self.logs:
            known = found.setdefault(log.seed, log)
            if known is not log and known.score and log.score and known.score[1:] != log.score[1:]:
                raise CannotCheck(f"{known.name} and {log.name} are of seed {log.seed} and end in different scores")
            found[log.seed] = max(known, log, key=lambda one: len(one.finals) + len(one.total_bytes))
        return found

    @once
    def script_path(self) -> Path:
        scripts = [name for name in self.files if name.endswith(".py") and "/" not in name]
        for wanted in (SCRIPT, *(name for name in scripts if "train" in name), *scripts):
            if wanted in self.files:
                return self.files[wanted]
        raise CannotCheck("there is no script")

    @once
    def script(self) -> str:
        return read_text(self.script_path, MAX_SCRIPT_BYTES)

    @once
    def code_files(self) -> list[str]:
        """The script and the modules beside it that it imports, as far as its text shows."""
        known, wanted = {}, [self.script_path.relative_to(self.folder).as_posix()]
        while wanted:
            name = wanted.pop()
            known[name] = True
            for module in _imports(read_text(self.files[name], MAX_SCRIPT_BYTES)):
                place = module.replace(".", "/")
                found = [f"{place}.py", f"{place}/__init__.py"]
                wanted += [one for one in found if one in self.files and one not in known and one not in wanted]
        return sorted(known)

    @once
    def artifacts(self) -> list[Path]:
        """Files in this project's format, by their name."""
        found = [path for name, path in self.files.items() if name.endswith(".pgolf")]
        if len(found) > MAX_ARTIFACTS:
            raise Broken(f"{len(found)} artifacts are more than the {MAX_ARTIFACTS} that are opened")
        return found

    @once
    def artifact(self) -> Path:
        if self.artifacts:
            return self.artifacts[0]
        raise CannotCheck(self.no_artifact)

    @property
    def no_artifact(self) -> str:
        others = [name for name in self.files if name.endswith(WEIGHT_ENDINGS)]
        if others:
            sizes = ", ".join(f"{name} ({self.files[name].stat().st_size:,} bytes)" for name in others[:3])
            return f"{sizes} is not in this project's format and is not opened"
        return "the weight file is not in the folder"

    # ------------------------------------------------------------------ what they say

    @once
    def track(self) -> str:
        """The track as this project writes it."""
        said = [self.claims.get("track"), *(part.removeprefix("track_") for part in self.folder.resolve().parts[::-1])]
        for name in said:
            name = str(name).removeprefix("track_")
            if name in TRACK_CAP_BYTES:
                return name
            if "16mb" in name.lower():
                return FINEWEB_TRACK
        raise CannotCheck("no file says on which track it is")

    @once
    def seed_claims(self) -> dict[int, dict[str, Any]]:
        """{seed: claimed values} of submission.json, empty where it has no such table."""
        for key in SEED_TABLES:
            table = self.claims.get(key)
            if isinstance(table, list):
                table = {row.get("seed"): row for row in table if isinstance(row, dict)}
            if isinstance(table, dict):
                rows = {re.sub(r"^seed[ _-]?", "", str(name)): row for name, row in table.items()}
                return {
                    int(name): row for name, row in rows.items()
                    if name.isascii() and name.isdecimal() and len(name) < 20 and isinstance(row, dict)
                }  # fmt: skip
        return {}

    @once
    def seeds(self) -> list[int]:
        """Every seed that submission.json names."""
        listed = self.claims.get("seeds")
        found = [seed for seed in listed if not isinstance(seed, dict)] if isinstance(listed, list) else []
        found = [int(one) if isinstance(one, str) and re.fullmatch(r"[0-9]{1,19}", one) else one for one in found]
        odd = [str(seed)[:40] for seed in found if type(seed) is not int]
        if odd:
            raise Broken(f"submission.json names a seed that is none ({odd[0]!r})")
        return sorted({*found, *self.seed_claims})

    @once
    def dataset(self) -> Dataset:
        """The prepared dataset that the scores are of: the one named, or the only one of the claimed size."""
        if self.data:
            return self.opened(self.data)
        vocab_size = header_of(self.artifact)["model"]["vocab_size"]
        targets = self.claims.get("val_targets")
        known = [one for one in prepared_datasets(self.cache_dir or None) if one.vocab_size == vocab_size]
        if is_number(targets):
            known = [one for one in known if sum(map(shard_tokens, one.val_paths)) - 1 == targets]
        name = TEXT_OF_TRACK.get(self.track, ("",))[0]
        known = [one for one in known if one.name.startswith(name)] or known
        if len(known) != 1:
            names = ", ".join(one.name for one in known) or "none"
            raise CannotCheck(f"prepared datasets of {vocab_size} pieces and the claimed size: {names}; give --data")
        return known[0]

    @once
    def way(self) -> Way:
        """Window and stride of the score: as the script has them as literals, else submission.json, else README."""
        found = _literals(self.script) if self._has_script() else {}
        said = {key: self.claims.get(key) for key in ("window", "sliding_stride", "eval_stride", "stride")}
        text = self.readme if not all(key in found for key in ("seq_len", "stride")) else ""
        window = found.get("seq_len") or said["window"] or _after(r"\bwindow", text)
        stride = found.get("stride") or said["sliding_stride"] or said["eval_stride"] or said["stride"]
        stride = stride or _after(r"\bstride", text)
        if type(window) is not int or type(stride) is not int:
            raise CannotCheck("neither the script nor submission.json nor README.md says which window and stride")
        way = Way(window, stride, min(32, max(1, 2**15 // max(window, 1))))
        mode = found.get("autocast")
        if mode not in ("auto", "off"):
            mode = "off" if "| compute: float32" in self.computed_on else "auto"
        return replace(way, autocast=mode)

    @property
    def computed_on(self) -> str:
        """What the scores were computed on, where a log says so; else empty."""
        return next((log.computed_on for log in quietly(lambda: self.logs) or () if log.computed_on), "")

    def _has_script(self) -> bool:
        try:
            return bool(self.script)
        except (CannotCheck, Broken):
            return False

    @once
    def scoring(self) -> Scoring:
        header_of(self.artifact)
        return Scoring(self.artifact, self.dataset, self.way, self.budget_seconds, self.progress)


def _imports(text: str) -> set[str]:
    """Modules that a script imports, as far as it can be parsed."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found |= {module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)} - {""}
    return found | {name.rpartition(".")[0] for name in found if "." in name}


def _literals(text: str) -> dict[str, Any]:
    """Window, stride and autocast of a script of `pgolf export`: defaults of the class that has a stride, and another.

    Several different values for one name make none.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        values = {
            part.target.id: part.value.value for part in node.body
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            and isinstance(part.value, ast.Constant)
        }  # fmt: skip
        if {"stride", "seq_len"} <= set(values):
            found |= {key: values[key] for key in ("seq_len", "stride")}
        if "autocast" in values:
            found["autocast"] = values["autocast"]
    return found


def _after(word: str, text: str) -> int | None:
    """The one number that follows a word wherever it stands; None where there are several, or none."""
    numbers = {int(number) for number in re.findall(rf"{word}[ :=]{{1,2}}(\d{{1,7}})\b", text, re.IGNORECASE)}
    return numbers.pop() if len(numbers) == 1 else None
