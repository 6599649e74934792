"""The form of the script that counts as code: the recipe's `script`, by whatever way it is asked for.

pytest tests/test_script_form.py
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from small import small_recipe

from pgolf_core.files import UserError
from pgolf_core.lab import cli
from pgolf_core.lab.export import code_bytes_of, export_script, write_script
from pgolf_core.recipe import load_recipe

READABLE = small_recipe()
MINIFIED = dataclasses.replace(READABLE, script="minified")


def test_recipes_are_readable_unless_they_say_otherwise_and_the_form_makes_another_recipe():
    assert READABLE.script == load_recipe("local-smoke").script == "readable"
    assert READABLE.fingerprint != MINIFIED.fingerprint, "total bytes differ, so a run may not be taken for the other"
    with pytest.raises(UserError, match=r"script = 'tiny'; allowed: readable, minified"):
        load_recipe("local-smoke", ["script=tiny"])


@pytest.mark.slow
def test_a_minified_recipe_counts_less_than_half_and_the_option_means_the_same(tmp_path: Path, capsys):
    pytest.importorskip("python_minifier")
    text = export_script(MINIFIED)
    assert text == export_script(MINIFIED, minify=True)
    assert code_bytes_of(MINIFIED) == len(text.encode()) < code_bytes_of(READABLE) / 2
    by_option, by_key = tmp_path / "option", tmp_path / "key"
    assert cli.main(["export", "local-smoke", "--out", str(by_option), "--minify"]) == 0
    write_script(load_recipe("local-smoke", ["script=minified"]), by_key)
    assert (by_option / "train_gpt.py").read_bytes() == (by_key / "train_gpt.py").read_bytes()
    assert f"{(by_key / 'train_gpt.py').stat().st_size:,} bytes" in capsys.readouterr().out


def test_without_the_minifier_only_the_minified_form_is_refused_and_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "python_minifier", None)
    other = dataclasses.replace(MINIFIED, title="not exported before")
    with pytest.raises(UserError, match="install pgolf with its extra `minify`") as caught:
        export_script(other)
    assert "\n" not in str(caught.value)
    assert "Recipe" in export_script(READABLE)
