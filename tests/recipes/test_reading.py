"""Recipes on disk: what extends what, overrides in words, and what is refused."""

import dataclasses
from pathlib import Path

import pytest
from refused import refused

from pgolf_core.recipes.reading import available_recipes, lineage, load_recipe


def test_extends_changes_only_what_the_child_names(tmp_path: Path) -> None:
    (tmp_path / "parent.toml").write_text('title = "p"\n[model]\nnum_layers = 4\nmodel_dim = 256\nnum_heads = 4\n')
    (tmp_path / "child.toml").write_text('extends = "parent"\ntitle = "c"\n[model]\nnum_layers = 6\n')
    (tmp_path / "bare.toml").write_text('extends = "parent"\n')
    parent, child = (load_recipe(name, folder=tmp_path) for name in ("parent", "child"))
    assert (child.model.num_layers, child.model.model_dim, child.title) == (6, 256, "c")
    assert dataclasses.replace(child.model, num_layers=4) == parent.model
    assert load_recipe(str(tmp_path / "child.toml")) == child
    assert load_recipe("bare", folder=tmp_path).title == "", "a title is not inherited"
    assert [path.stem for path in lineage("child", tmp_path)] == ["child", "parent"]


def test_a_parent_is_looked_for_beside_the_file_first_whatever_else_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "pr1493.toml").write_text('extends = "pr1855"\n[model]\nnum_layers = 12\n')  # which extends ours
    for parent in ("pr1493", "pr1493.toml", "./pr1493.toml", str(tmp_path / "pr1493.toml")):
        (tmp_path / "child.toml").write_text(f'extends = "{parent}"\n')
        found = lineage(str(tmp_path / "child.toml"))
        assert [path.stem for path in found] == ["child", "pr1493", "pr1855", "pr1493", "pr315"]
        assert load_recipe(str(tmp_path / "child.toml")).model.num_layers == 12


def test_a_recipe_in_a_folder_of_its_own_may_extend_one_of_ours_and_begin_with_a_byte_order_mark(tmp_path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'\xef\xbb\xbfextends = "pr315"\ntitle = "m"\n[model]\nnum_layers = 12\n')
    assert load_recipe(str(tmp_path / "mine.toml")).model == load_recipe("pr315", ["model.num_layers=12"]).model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('extends = "b"\n', r"a\.toml: extends itself through a -> b -> a"),
        ("extends = 3\n", r"a\.toml: extends must be a recipe's name, not 3"),
        ('extends = "nowhere/own.toml"\n', r"a\.toml: extends: nowhere/own\.toml does not exist; name a recipe's file"),
        ('extends = "/folder.toml"\n', r"/folder\.toml is a folder; name a recipe's file"),
        ('extends = ""\n', r"a\.toml: extends: unknown recipe ''; known: "),
        ('extends = "pr999"\n', r"a\.toml: extends: unknown recipe 'pr999'; known: .*pr315"),
        ('name = "b"\n', r"a\.toml: name cannot be given: a recipe is called as its file"),
        ('extends = "c"\n', r"c\.toml: name cannot be given"),
        ("title = \n", r"a\.toml: not valid TOML"),
        (f"x = {'9' * 5000}\n", r"a\.toml: not valid TOML: Exceeds the limit"),
        (f"extends = 0x{'9' * 5000}\n", r"a\.toml: not valid TOML: Exceeds the limit"),
        (f"[[x]]\ny = [0b{'1' * 20000}]\n", r"a\.toml: not valid TOML: Exceeds the limit"),
        (f"x = {'[' * 9999}\n", r"a\.toml: not valid TOML: maximum recursion"),
        (f'extends = "{"x" * 300}"\n', r"a\.toml: extends: unknown recipe 'x"),
        ('extends = "folder.toml/../a"\n', r"a\.toml: extends itself through a -> a"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.toml").write_text(text.replace("/folder", str(tmp_path / "folder")))
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "b.toml").write_text('extends = "a"\n')
    (tmp_path / "c.toml").write_text('name = "c"\n')
    with refused(words):
        load_recipe("a", folder=tmp_path)


def test_a_file_named_without_its_ending_is_named_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text('extends = "pr315"\n')
    monkeypatch.chdir(tmp_path)
    with refused(r"unknown recipe 'mine'; known: mine\.toml, which is here, or one of: fr"):
        load_recipe("mine")


def test_recipes_are_found_by_name_and_overrides_set_one_key_and_bare_words_are_strings() -> None:
    names = available_recipes()
    assert names == sorted(names) and {"pr315", "local", "local-pr315", "pr194-as-run"} <= set(names)
    overrides = ["model.num_layers=12", "average.kind=swa", "model.ve_layers=[9, 10]", "model.ve_dim=8"]
    recipe = load_recipe("pr315", overrides)
    assert recipe.model.num_layers == 12 and recipe.average.kind == "swa" and recipe.model.ve_layers == (9, 10)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.num_layers", "not of the form"),
        ("model.num_layer=3", "unknown key 'model.num_layer'"),
        ("model=3", "is a section"),
        ("model.num_layers.x=3", "unknown key"),
        ("name=other", "cannot be overridden"),
        ("model.num_layers=many", "must be of type int"),
        ("model.num_layers=12\nmodel.ve_dim=8", "must be of type int, not '12.nmodel.ve_dim=8'"),
        (f"model.num_layers={'9' * 5000}", "must be of type int, not '9999"),
        (f"model.num_layers=0x{'9' * 5000}", "must be of type int, not '0x9999"),
        (f"schedule.max_seconds=0x{'9' * 5000}", "must be of type float, not '0x9999"),
        (f"model.num_layers={'[' * 9999}", "must be of type int"),
    ],
)
def test_bad_overrides_are_refused(override: str, words: str) -> None:
    with refused(words):
        load_recipe("pr315", [override])
