#!/usr/bin/env bash
# omegaconf 2.3.1: one short commit hash in fifty becomes a number that has lost it, half of those infinity.
#
# `commit=$(git rev-parse --short HEAD)` among a run's settings records which code it was of. A value without quotes is a
# number where it can be read as one. PyYAML wants a point and a sign in a float with an exponent; omegaconf's loader wants
# neither, nor does hydra 1.3.8 on its command line: 12e4567 is infinity, 1234e56 is 1.234e+59. And seven digits with a
# zero in front are an octal number where none of them is above 7: 0012345 is 5349. PyYAML alone has those only. Nothing
# warns, the hash cannot be had back from the value, and runs of different commits can have the same.
# A field declared as `commit: str` does not help: it holds the text "inf".
# What to do: a letter in front (g12e4567), or quotes that reach the loader: 'commit="12e4567"'.
#
# Expected: the text that was given. Seen on 2026-11-30, 100,000 random hashes of seven characters that
# are not what was given: omegaconf 1.97 %, half of them infinity; PyYAML 6.0.4 0.09 %
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check omegaconf==2.3.1 pyyaml==6.0.4
cat > commits.py <<'PY'
import dataclasses
import random

import yaml
from omegaconf import OmegaConf

@dataclasses.dataclass
class Run:
    commit: str = ""

HASHES = 100_000
ways = {
    "dotlist": lambda text: OmegaConf.from_dotlist([f"commit={text}"]).commit,
    "file": lambda text: OmegaConf.create(f"commit: {text}").commit,
    "PyYAML": lambda text: yaml.safe_load(f"commit: {text}")["commit"],
    "declared": lambda text: OmegaConf.merge(Run, OmegaConf.from_dotlist([f"commit={text}"])).commit,
}
for text in ("12e4567", "1234e56", "0012345", "1234567", "ab12345"):
    print(text, {way: read(text) for way, read in ways.items()})
draw = random.Random(0)
hashes = ["".join(draw.choices("0123456789abcdef", k=7)) for _ in range(HASHES)]
lost = {}
for way in ("dotlist", "PyYAML"):
    values = [ways[way](text) for text in hashes]
    lost[way] = sum(str(value) != text for value, text in zip(values, hashes)) / HASHES
    print(f"{way}: {lost[way]:.2%} are not what was given, infinite {values.count(float('inf'))}")
quoted = ways["dotlist"]('"12e4567"')
print("declared as text:", ways["declared"]("12e4567"), "quoted:", quoted)
kept = quoted == "12e4567" and ways["dotlist"]("g12e4567") == "g12e4567"
as_seen = ways["declared"]("12e4567") == "inf" and lost["dotlist"] > 0.015 and lost["PyYAML"] < lost["dotlist"] / 3
raise SystemExit(0 if kept and as_seen else "CHANGED")
PY
venv/bin/python commits.py
echo "as seen: a hash that reads as a number becomes one"
