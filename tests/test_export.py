"""The single script: complete, alone, deterministic, and byte for byte the same artifact as the package's.

pytest tests/test_export.py; -m slow runs exported scripts from beginning to end.
"""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ranks import on_ranks
from small import small_recipe

from pgolf_core import artifact, evaluate
from pgolf_core.checkpoint import load_tensors
from pgolf_core.correction import HESSIANS, Hessians
from pgolf_core.data import load_tokens, write_shard
from pgolf_core.files import UserError, read_json
from pgolf_core.lab import cli
from pgolf_core.lab.corpus import train_tokenizer
from pgolf_core.lab.export import _check, _literal, code_bytes_of, export_script, write_script
from pgolf_core.lab.export_merge import merge, read_rooms
from pgolf_core.lab.export_source import Edits, Source
from pgolf_core.lab.export_values import Choices, Object, Values
from pgolf_core.parallel import World
from pgolf_core.recipe import Recipe, available_recipes, load_recipe
from pgolf_core.sensitivity import allocate_bits, groups_of
from pgolf_core.tokenizer import Tokenizer
from pgolf_core.train import TrainData, train

PIECES = 300
MAY_IMPORT = {"torch", "numpy", "sentencepiece", "zstandard"}
SMALL = {"vocab_size": PIECES}
VARIANTS = {
    "ema": small_recipe(model=SMALL),
    "bits by gradient, late QAT, SWA, value embedding": small_recipe(
        model={**SMALL, "model_dim": 64, "ve_dim": 8, "ve_layers": [1], "bigram_rows": 0, "xsa_last_n": 0,
               "smear": "before", "init": "uniform", "ln_scale": False},
        schedule={"iterations": 24, "warmdown_iters": 20},
        average={"kind": "swa", "swa_every_steps": 2},
        qat={"kind": "late", "threshold": 0.6, "lr_factor": 0.5},
        quant={"allocation": "gradient"},
    ),
    "steps by gradient": small_recipe(
        model={**SMALL, "model_dim": 64}, schedule={"iterations": 24, "warmdown_iters": 20}, quant={"kind": "steps"},
    ),
    "steps by gradient, rounding corrected": small_recipe(
        model={**SMALL, "model_dim": 64}, schedule={"iterations": 24, "warmdown_iters": 20},
        quant={"kind": "steps", "correction": "hessian", "correction_tokens": 200},
    ),
    "by the clock, clip search, no average, exceptions": small_recipe(
        model={**SMALL, "smear": "off"},
        schedule={"max_seconds": 1e6, "warmdown_iters": 0},
        average={"kind": "none"},
        qat={"kind": "always", "grid": "int6_row"},
        quant={"attention": "int6_clip_search", "mlp": "int8_clip_search_step4",
               "exceptions": ["blocks.0.*.weight=fp16"]},
    ),
}  # fmt: skip


def imported(text: str) -> set[str]:
    """First parts of everything a script imports."""
    nodes = list(ast.walk(ast.parse(text)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


# ---------------------------------------------------------------------- what is exported


AT_ONCE = ("pr534", "local")
"""Exporting takes seconds; the other recipes change values of these and wait for `make test-slow`."""


@pytest.mark.parametrize(
    "name", [name if name in AT_ONCE else pytest.param(name, marks=pytest.mark.slow) for name in available_recipes()]
)
def test_every_recipe_exports_to_a_script_that_compiles_and_stands_alone(name: str):
    recipe = load_recipe(name)
    text = export_script(recipe)
    _check(text)
    coder = {"constriction"} if recipe.quant.kind == "steps" else set()
    assert imported(text) - set(sys.stdlib_module_names) == MAY_IMPORT | coder
    assert "pgolf_core" not in "".join(line for line in text.splitlines() if "import" in line)
    assert code_bytes_of(load_recipe(name)) == len(text.encode()) < 150_000
    assert "def violations" not in text and "safetensors" not in text and "tomllib" not in text


def test_a_script_holds_its_recipe_and_only_what_that_uses():
    whole = export_script(VARIANTS["bits by gradient, late QAT, SWA, value embedding"])
    plain = export_script(VARIANTS["ema"])
    assert "ve_layers: tuple[int, ...] = (1,)" in whole and "ve_layers: tuple[int, ...] = ()" in plain
    for part in (
        "class ValueEmbedding",
        "class SWA",
        "def allocate_bits",
        "def fake_quantise",
        "class SensitivityMeter",
    ):
        assert part in whole and part not in plain, part
    for part in ("class EMA", "class BigramEmbedding", "def exclude_self"):
        assert part in plain and part not in whole, part
    for part in (
        "class NoAverage",
        "def multiplier_by_clock",
        "def _search_error",
        "attention_maps",
        "class TrainProgress",
    ):
        assert part not in whole and part not in plain, part
    corrected = export_script(VARIANTS["steps by gradient, rounding corrected"])
    uncorrected = export_script(VARIANTS["steps by gradient"])
    for part in ("class Gathering", "def round_in_turn", "def feedback_of"):
        assert part in corrected and part not in uncorrected and part not in plain, part
    assert "def quantise_in_turn" not in uncorrected + plain
    assert "Muon for matrices" in plain and "# Writing" in plain  # docstrings and comments stay


def test_values_with_quotes_become_literals_of_the_same_value():
    for value in ("plain", "it's", 'a "b"', "a\\b", 'it\'s "x"', 1.5, (1, 2), True):
        assert ast.literal_eval(_literal(value)) == value


@pytest.mark.slow
def test_equal_recipes_give_equal_scripts_and_other_values_another():
    again = export_script.__wrapped__  # past the cache
    assert again(small_recipe()) == again(small_recipe())
    assert export_script(small_recipe()) != export_script(small_recipe(eval={"stride": 8}))


def test_a_name_that_was_removed_but_is_still_used_is_refused():
    _check("import os\n\n\ndef f(x):\n    return [os.sep for y in x if y]\n")
    with pytest.raises(UserError, match="left `gone` in `return gone` undefined"):
        _check("def f():\n    return gone\n")
    with pytest.raises(UserError, match="left `from pgolf_core"):
        _check("def f():\n    from pgolf_core import grid\n    return grid\n")


def test_the_command_writes_the_script_and_overwrites_no_other(tmp_path: Path, capsys):
    arguments = ["export", "local-smoke", "--out", str(tmp_path / "new"), "--set", "model.num_layers=2"]
    assert cli.main(arguments) == 0
    path = tmp_path / "new" / "train_gpt.py"
    assert "num_layers: int = 2" in path.read_text(encoding="utf-8")
    assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert cli.main(arguments[:-2]) == 1
    assert "exists and is another script" in capsys.readouterr().err
    assert cli.main(["export", "nosuch", "--out", str(tmp_path)]) == 2


# ---------------------------------------------------------------------- how it is made


def merged(**texts: str) -> str:
    rooms = read_rooms("last", texts)
    return merge(rooms, {})[0]


def test_names_that_collide_are_renamed_wherever_they_are_meant():
    text = merged(
        low="_size = 3\n\n\ndef grow(x):\n    return x + _size\n",
        last="from pgolf_core import low\n\n_size = 5\n\n\ndef use(grow):\n    return low.grow(grow) * _size\n",
    )
    space: dict = {}
    exec(text, space)
    assert (
        space["use"](1) == (1 + 3) * 5
    )  # neither the other room's _size nor the parameter called grow is taken for it


def test_a_name_imported_as_another_is_followed():
    text = merged(
        low="def a():\n    return 1\n", last="from pgolf_core.low import a as b\n\n\ndef a():\n    return b() + 1\n"
    )
    space: dict = {}
    exec(text, space)
    assert sorted(value() for name, value in space.items() if name.endswith("a")) == [1, 2]


@pytest.mark.parametrize(
    "last, message",
    [
        ("def f():\n    from pgolf_core import low\n    return low\n", "cannot be merged"),
        ("from pgolf_core import low\n\nvalue = low\n", "is used as a value"),
        ("import pgolf_core.low\n", "cannot be merged"),
        ("from pgolf_core.low import nothing\n\nvalue = nothing\n", "does not exist"),
    ],
)
def test_what_cannot_be_merged_is_named(last: str, message: str):
    with pytest.raises(UserError, match=message):
        merged(low="a = 1\n", last=last)


def test_a_replacement_that_no_longer_fits_the_core_is_an_error():
    with pytest.raises(UserError, match="holds it 0 times: 'absent'"):
        merge(read_rooms("last", {"last": "a = 1\n"}), {"last": [("absent", "b")]})


def value_of(text: str, expression: str, known: dict | None = None):
    """The value that is found for the first expression of that text in a script."""
    source = Source(text)
    node = next(n for n in source.nodes if isinstance(n, ast.expr) and source.slice(n) == expression)
    return Values(source, known or {}).of(node)


def test_a_value_is_known_only_where_nothing_can_change_it():
    once = "class A:\n    def __init__(self, x=1):\n        self.x = x\n\n"
    once += "    def f(self):\n        return self.x + 1\n\n\nA()\n"
    assert value_of(once, "self.x + 1") == Choices((2,))
    assert value_of(once + "A(4)\n", "self.x + 1") == Choices((2, 5))
    assert value_of(once + "A(*[5])\n", "self.x + 1") is None
    assert value_of(once + "B = A\n", "self.x + 1") is None  # it may be called out of sight
    assert value_of(once + "a = A()\na.x = 9\n", "self.x + 1") is None
    assert value_of("def f():\n    a = 1\n    return a > 0\n", "a > 0") == Choices((True,))
    assert value_of("def f():\n    a = 1\n    a += 1\n    return a > 0\n", "a > 0") is None
    assert value_of("def f(a):\n    a = 1\n    return a > 0\n", "a > 0") is None
    assert value_of("class A:\n    pass\n\n\ndef f(a: A):\n    return a is None\n", "a") == Object("A")


def test_edits_that_belong_together_are_done_together_or_not_at_all():
    source = Source("f(1)\ng(2)\n")
    edits = Edits(source)
    group = edits.new_group()
    edits.replace((2, 3), "x", group)
    edits.replace((7, 8), "y", group)
    edits.replace((5, 9), "wide")
    assert edits.apply() == "f(1)\nwide\n"


# ---------------------------------------------------------------------- run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of invented words in the published layout, and a lossless tokenizer made for them."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmno", k=draw.randint(1, 7))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=60)) + "." for _ in range(60)]
    (folder / "tokenizer.model").write_bytes(train_tokenizer(texts, PIECES))
    tokenizer = Tokenizer(folder / "tokenizer.model")
    tokens = [np.array([tokenizer.bos_id, *tokenizer.encode(text)], np.uint16) for text in texts]
    for name, part in (("train_000000", tokens[:30]), ("train_000001", tokens[30:50]), ("val_000000", tokens[50:])):
        write_shard(folder / f"words_{name}.bin", np.concatenate(part))
    return folder


def hessians_of(folder: Path) -> Hessians:
    means, about = load_tensors(folder / HESSIANS)
    return Hessians(means, about["tokens"])


def run_package(recipe: Recipe, data: Path, folder: Path, code_bytes: int) -> dict[str, float]:
    """What notebooks 03 to 06 do, by the same core functions."""
    tokenizer = Tokenizer(data / "tokenizer.model")
    paths = [sorted(data.glob(f"*_{split}_*.bin")) for split in ("train", "val")]
    train(recipe, 7, TrainData(*paths, tokenizer.bytes, tokenizer.vocab_size, sha256="words"), folder)
    gathered = read_json(folder / "sensitivity.json")["mean_squared_gradient"]
    groups = load_tensors(folder / "sensitivity.safetensors")[0]
    artifact.pack(
        load_tensors(folder / "weights-averaged.safetensors")[0], recipe.model, recipe.quant, folder / "model.pgolf",
        bits=allocate_bits(gathered) if recipe.quant.allocation == "gradient" else None,
        sensitivity=groups_of(groups) if recipe.quant.kind == "steps" else None,
        hessians=hessians_of(folder) if recipe.quant.correction == "hessian" else None,
        code_bytes=code_bytes, cap_bytes=recipe.cap_bytes,
    )  # fmt: skip
    tokens = load_tokens(paths[1], tokenizer.vocab_size)
    scores = {}
    for name, stride in (("roundtrip", recipe.eval.seq_len), ("sliding", recipe.eval.stride)):
        scores[f"{name}_bpb"] = evaluate.score_artifact(
            folder / "model.pgolf", tokens, tokenizer.bytes, recipe.eval.seq_len, stride, recipe.eval.batch_seqs,
            autocast=recipe.schedule.autocast,
        ).bpb  # fmt: skip
    return scores


def start(folder: Path, *how: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a folder's script from inside it, in an environment that knows of nothing else."""
    clean = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **environment}
    command = [sys.executable, "-I", *(how or ("train_gpt.py",))]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)


WITHOUT_PACKAGE = (
    "-c", "import runpy, sys; sys.modules['pgolf_core'] = None; runpy.run_path('train_gpt.py', run_name='__main__')"
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_script_alone_makes_the_same_artifact_as_the_package(name: str, data: Path, tmp_path: Path):
    recipe = VARIANTS[name]
    scores = run_package(recipe, data, tmp_path / "package", code_bytes=12_345)
    expected = (tmp_path / "package" / "model.pgolf").read_bytes()
    environment = {"DATA_PATH": str(data), "TOKENIZER_PATH": str(data / "tokenizer.model"), "SEED": "7"}
    for minify in (False, True):
        if minify:
            pytest.importorskip("python_minifier")
        folder = tmp_path / f"minify-{minify}"
        script = write_script(recipe, folder, minify)
        done = start(folder, *(() if minify else WITHOUT_PACKAGE), **environment)
        assert done.returncode == 0, done.stderr
        assert (folder / "seed7" / "final_model.pgolf").read_bytes() == expected
        result = json.loads((folder / "seed7" / "result.json").read_text())
        assert {key: result[key] for key in scores} == scores
        assert result["code_bytes"] == script.stat().st_size == code_bytes_of(recipe, minify)
        assert result["total_bytes"] == len(expected) + result["code_bytes"]
        assert result["recipe_sha256"] == recipe.fingerprint and result["seed"] == 7
        said = done.stdout.splitlines()
        assert (
            said[-1]
            == f"final_sliding_window_exact val_loss:{result['sliding_loss']:.8f} val_bpb:{scores['sliding_bpb']:.8f}"
        )
        assert f"Serialized model: {len(expected)} bytes" in said
        ours = (tmp_path / "package" / "train.log").read_text().splitlines()
        timed = [line.split(" train_time")[0] for line in (folder / "seed7" / "train.log").read_text().splitlines()]
        assert [line.split(" train_time")[0] for line in ours] == [line for line in timed if line in {
            x.split(" train_time")[0] for x in ours
        }]  # fmt: skip


@pytest.mark.slow
def test_another_process_with_another_hash_seed_exports_the_same_bytes():
    code = "import sys; from pgolf_core.lab.export import *; from pgolf_core.recipe import load_recipe; "
    code += "sys.stdout.write(export_script(load_recipe('local-smoke')))"
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == export_script(load_recipe("local-smoke"))


@pytest.mark.slow
def test_the_script_names_what_is_missing_in_one_line(data: Path, tmp_path: Path):
    write_script(VARIANTS["ema"], tmp_path)
    done = start(tmp_path, TOKENIZER_PATH=str(data / "tokenizer.model"), DATA_PATH="nowhere")
    assert done.returncode == 1 and done.stderr == (
        "error: no *_train_*.bin in nowhere; set DATA_PATH to the folder of the shards\n"
    )
    done = start(tmp_path, SEED="one")
    assert done.returncode == 1 and done.stderr == "error: SEED=one is not a whole number\n"


def train_rank(world: World, recipe: Recipe, data: Path, folder: Path) -> None:
    tokenizer = Tokenizer(data / "tokenizer.model")
    paths = [sorted(data.glob(f"*_{split}_*.bin")) for split in ("train", "val")]
    train(recipe, 7, TrainData(*paths, tokenizer.bytes, tokenizer.vocab_size, sha256="words"), folder, world=world)


@pytest.mark.slow
def test_under_torchrun_the_script_makes_what_the_package_makes_with_as_many_ranks(data: Path, tmp_path: Path):
    recipe, package = VARIANTS["ema"], tmp_path / "package"
    on_ranks(2, train_rank, recipe, data, package)
    artifact.pack(
        load_tensors(package / "weights-averaged.safetensors")[0], recipe.model, recipe.quant, package / "model.pgolf",
        code_bytes=12_345, cap_bytes=recipe.cap_bytes,
    )  # fmt: skip
    write_script(recipe, tmp_path)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train_gpt.py")
    paths = {"DATA_PATH": str(data), "TOKENIZER_PATH": str(data / "tokenizer.model")}
    done = start(tmp_path, *torchrun, SEED="7", **paths)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seed7" / "final_model.pgolf").read_bytes() == (package / "model.pgolf").read_bytes()
    result = json.loads((tmp_path / "seed7" / "result.json").read_text())
    assert result["ranks"] == 2 and done.stdout.count("final_sliding_window_exact") == 1
    tokenizer = Tokenizer(data / "tokenizer.model")
    alone = evaluate.score_artifact(
        package / "model.pgolf", load_tokens(sorted(data.glob("*_val_*.bin")), PIECES), tokenizer.bytes,
        recipe.eval.seq_len, recipe.eval.stride, recipe.eval.batch_seqs, autocast="off",
    )  # fmt: skip
    assert result["sliding_bpb"] == alone.bpb  # each rank scored a share
