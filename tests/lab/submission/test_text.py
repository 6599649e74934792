"""The README of a submission: what is new, every seed, bytes, seconds, figures, commands; and nothing but text."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from toy_run import change

from pgolf_core.base.files import read_json
from pgolf_core.lab.submission.folder import write_submission
from pgolf_core.lab.submission.text import changed_keys
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.seed import Result

HOSTILE = "<script>alert(1)</script> ![x](http://e.example/p.png) | `a` # @everyone ../../etc $x$ **b** <!--"


def test_the_readme_tells_what_is_new_every_seed_bytes_seconds_figures_and_the_commands(copied: Path, tmp_path: Path):
    (copied / "seed1" / "launch.json").write_text('{"nproc": 4}')
    written = write_submission(copied, "A toy", "Ada", "ada", tmp_path / "out")
    text = (written / "README.md").read_text()
    for result in (Result.read(copied / f"seed{seed}" / "result.json") for seed in (1, 2)):
        assert f"{result.sliding_bpb:.4f}" in text and f"{result.total_bytes:,}" in text
        assert f"{result.seconds['total']:,.1f}" in text and f"{result.cap_bytes - result.total_bytes:,}" in text
    assert "| **mean** |" in text and "| **std** |" in text and "| **whole** |" in text
    assert re.search(r"^pgolf record toy --seeds 1,2", text, re.MULTILINE)
    assert "| model.num\\_layers | 11 | 2 |" in text and "differ from the defaults" in text
    launch = "torchrun --standalone --nproc_per_node=4"
    assert re.search(rf"^DATA_PATH=DATA TOKENIZER_PATH=TOKENIZER SEED=2 {launch} train_gpt.py$", text, re.MULTILINE)
    size = (written / "train_gpt.py").stat().st_size
    assert f"Code is `train_gpt.py` (packed), {size:,} bytes; the cap of local\\_10min\\_1mb is 1,000,000" in text
    shown = set(re.findall(r"]\((figures/[a-z]+\.(?:png|csv))\)", text))
    assert shown == {path.relative_to(written).as_posix() for path in (written / "figures").iterdir()}
    assert "The scores do not compare" in text and "| pr315 (merged) |" in text
    assert "on the first 200 of" in text, "what was scored on a part says so"
    assert "Keller Jordan" in text and str(copied.parent) not in text
    assert "What the model says" not in text and "summary.json" not in text


def test_what_is_new_is_told_against_the_recipe_that_the_file_extends():
    base, rows = changed_keys(load_recipe("local-smoke", ["average.kind=none"]))
    assert base == "recipe pr315"
    changed = {key: (there, here) for key, there, here in rows}
    assert changed["model.model_dim"][0] == "512" and changed["average.kind"] == ('"ema"', '"none"')
    assert "model.logit_softcap" not in changed and "title" not in changed
    assert changed_keys(load_recipe("pr315"))[0] == "the defaults"


def test_hostile_names_titles_and_citations_are_only_text(copied: Path):
    for folder in (copied, copied / "seed1", copied / "seed2"):
        change(folder / "recipe.json", title=HOSTILE + "\n# heading", name="../" + HOSTILE)
    (copied / "data.json").write_text(json.dumps({"citation": HOSTILE}))
    folder = write_submission(copied, HOSTILE, HOSTILE, HOSTILE)
    assert folder.parent == copied.parent / "submissions"
    assert re.fullmatch(r"[0-9]{4}-\d\d-\d\d_[a-z0-9-]+", folder.name)
    assert read_json(folder / "submission.json")["author"] == HOSTILE
    text = (folder / "README.md").read_text()
    outside = re.sub(r"^```\n.*?\n```$", "", text, flags=re.MULTILINE | re.DOTALL)  # a fence shows its text as it is
    assert text.count("```") == 4
    outside = re.sub(r"!?\[[\w ,-]+\]\(figures/[a-z]+\.(png|csv)\)", "", outside)  # our own figures
    assert "<" not in outside.replace("<k>", "") and "http://" not in outside and "@everyone" not in outside
    plain = html.unescape(re.sub(r"\\([\\`*_\[\]{}|~#!$])", r"\1", outside))
    assert HOSTILE in plain, "nothing is lost by escaping"
    assert not re.search(r"(?<!\\)[\[\]!]", outside) and len(re.findall(r"^# ", outside, re.MULTILINE)) == 1
