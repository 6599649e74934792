"""mypy's errors, counted: none in the core, in the lab at most the number in pyproject.toml, which may only fall.

python tests/helpers/type_errors.py        (a step of `make lint`)
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ERROR = re.compile(r"^(pgolf_core/\S+?):\d+: error: ", re.MULTILINE)


def ceiling(pyproject: str) -> int:
    """The most errors that the lab may have: `[tool.pgolf] lab_type_errors`."""
    return tomllib.loads(pyproject)["tool"]["pgolf"]["lab_type_errors"]


def verdict(output: str, most: int) -> tuple[bool, str]:
    """Whether what mypy said may pass, and why, in a line."""
    places = ERROR.findall(output)
    core = [place for place in places if not place.startswith("pgolf_core/lab/")]
    lab = len(places) - len(core)
    passes, advice = True, f"; write {lab} into pyproject.toml, lab_type_errors" if lab < most else ""
    if core:
        passes, advice = False, f"; the core has none: mend {core[0]}"
    elif lab > most:
        passes, advice = False, "; mend the new ones, the number in pyproject.toml only falls"
    return passes, f"type errors: {len(core)} in the core, {lab} in the lab (at most {most}){advice}"


def main() -> int:
    """Run mypy, print its errors and the verdict; 0 where it may pass."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", "--no-color-output"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    passes, said = verdict(done.stdout, ceiling((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    if done.returncode not in (0, 1):  # mypy itself failed, and counted nothing
        passes, said = False, f"types: mypy ended with status {done.returncode}"
    print((done.stderr if passes else done.stdout + done.stderr) + said)
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
