"""The single script: complete, alone, deterministic, and byte for byte the same artifact as the package's.

pytest tests/lab/test_export.py; -m slow runs exported scripts from beginning to end.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib.util
import inspect
import json
import os
import random
import shutil
import subprocess
import symtable
import sys
from pathlib import Path

import numpy as np
import pytest
from ranks import on_ranks
from small import small_recipe

from pgolf_core import ROOMS
from pgolf_core.base.files import UserError, read_json
from pgolf_core.base.names import HESSIANS
from pgolf_core.base.parallel import World
from pgolf_core.lab import cli
from pgolf_core.lab.data.build import train_tokenizer
from pgolf_core.lab.export import (
    CALLED,
    _PlainFormat,
    code_bytes_of,
    export_script,
    joined,
    minified,
    readable_of,
    rooms_of,
    write_script,
)
from pgolf_core.lab.shared.places import CORE_DIR
from pgolf_core.packing.correction import Hessians
from pgolf_core.packing.pack import pack
from pgolf_core.packing.sensitivity import allocate_bits, groups_of
from pgolf_core.packing.unpack import score_artifact
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.text.shards import load_tokens, write_shard
from pgolf_core.text.tokenizer import Tokenizer
from pgolf_core.training.checkpoint import load_tensors
from pgolf_core.training.loop import TrainData, train

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


def undefined(text: str) -> set[str]:
    """Names that a script's code uses and nothing in it defines."""
    found: set[str] = set()

    def walk(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            if symbol.is_global() and symbol.is_referenced():
                found.add(symbol.get_name())
        for child in table.get_children():
            walk(child)

    whole = symtable.symtable(text, "train_gpt.py", "exec")
    walk(whole)
    own = {symbol.get_name() for symbol in whole.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    own |= {child.get_name() for child in whole.get_children()}
    return found - own - set(dir(builtins)) - {"__file__", "__name__"}


def defined_in(rooms: set[str]) -> set[str]:
    """Top-level names of files of the core."""
    trees = [ast.parse((CORE_DIR / f"{room.replace('.', '/')}.py").read_text(encoding="utf-8")) for room in rooms]
    nodes = [node for tree in trees for node in tree.body]
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    targets = [target for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_exports_to_a_script_that_stands_alone(name: str):
    recipe = load_recipe(name, ["script=readable"])
    text = export_script(recipe)
    left_out = {room for room in ROOMS if room not in rooms_of(recipe)}
    assert undefined(text) <= defined_in(left_out), "what a file that is left out would define, and nothing else"
    coder = {"constriction"} if recipe.quant.kind == "steps" else set()
    top = ast.Module([node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert imported(ast.unparse(top)) - set(sys.stdlib_module_names) == MAY_IMPORT | coder
    assert "pgolf_core" not in "".join(line for line in text.splitlines() if "import" in line)
    assert "'fingerprint'" not in text and recipe.fingerprint in text


@pytest.mark.parametrize("name", ["local", "pr315"])
def test_the_packed_script_is_small_and_reads_back_to_the_minified_one(name: str, tmp_path: Path):
    recipe = load_recipe(name)
    assert recipe.script == "packed"
    assert code_bytes_of(recipe) <= 40_100
    path = write_script(recipe, tmp_path)
    inside = readable_of(path)
    plain = minified(joined(recipe))
    assert ast.dump(ast.parse(inside)) == ast.dump(ast.parse(plain))
    assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(ast.parse(plain))), "3.11 cannot read all"
    assert set(CALLED) <= {node.name for node in ast.parse(inside).body if hasattr(node, "name")}


@pytest.mark.parametrize("text, message", [
    ("import lzma\nexec(lzma.decompress(b'123'))\n", "wrapped in a way that pgolf does not write"),
    ("exec(", "not a readable Python script"),
])  # fmt: skip
def test_another_wrapping_is_refused_unrun_and_a_plain_script_is_shown(text: str, message: str, tmp_path: Path):
    path = tmp_path / "train_gpt.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        readable_of(path)
    path.write_text("a = 1  # plain\n")
    assert readable_of(path) == "a = 1  # plain\n"


def test_a_formatted_string_means_the_same_without_its_own_syntax():
    source = r"""f'{x!r:>{width}} {{}} {x + "}":.3} {y:,} {z[0]:.2e}{"%"}'"""
    space = {"x": "a'b", "width": 9, "y": 12345, "z": [0.125]}
    tree = ast.fix_missing_locations(_PlainFormat().visit(ast.parse(source, mode="eval")))
    assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree))
    assert eval(compile(tree, "", "eval"), {}, space) == eval(source, {}, space)


def interpreter(name: str) -> str | None:
    """Where another Python of this machine is, on the path or in pyenv's folder."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    minor = name.removeprefix("python")
    found = [shutil.which(name), *map(str, sorted(versions.glob(f"{minor}.*/bin/{name}")))]
    runs = (one for one in found if one and not subprocess.run([one, "-c", ""], capture_output=True).returncode)
    return next(runs, None)


@pytest.mark.parametrize("python", ["python3.12", "python3.13", "python3.14"])
def test_another_version_of_python_packs_the_same_bytes(python: str, tmp_path: Path):
    found = interpreter(python)
    if not found:
        pytest.skip(f"no {python} here")
    minifier = Path(importlib.util.find_spec("python_minifier").origin).parent
    (tmp_path / "python_minifier").symlink_to(minifier)
    (tmp_path / "text").write_text(joined(load_recipe("local")))
    (tmp_path / "packing.py").write_text(
        f"import ast\nSCRIPT, CALLED = 'train_gpt.py', {CALLED!r}\n\n"
        + "\n".join(inspect.getsource(part) for part in (_PlainFormat, minified))
        + "\nprint(minified(open('text').read()), end='')\n"
    )
    done = subprocess.run([found, "packing.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == minified(joined(load_recipe("local")))


def test_equal_recipes_give_equal_scripts_and_other_values_another():
    again = export_script.__wrapped__  # past the cache
    assert again(small_recipe()) == again(small_recipe())
    assert export_script(small_recipe()) != export_script(small_recipe(eval={"stride": 8}))


def test_the_command_writes_the_script_and_overwrites_no_other(tmp_path: Path, capsys):
    arguments = ["export", "local-smoke", "--out", str(tmp_path / "new"), "--set", "script=readable"]
    assert cli.main(arguments) == 0
    path = tmp_path / "new" / "train_gpt.py"
    assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert cli.main(arguments[:-2]) == 1
    assert "exists and is another script" in capsys.readouterr().err
    assert cli.main(["export", "nosuch", "--out", str(tmp_path)]) == 2
    assert cli.main(["export", "local-smoke"]) == 2
    assert cli.main(["export", "--readable-of", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")


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
    pack(
        load_tensors(folder / "weights-averaged.safetensors")[0], recipe.model, recipe.quant, folder / "model.pgolf",
        bits=allocate_bits(gathered) if recipe.quant.allocation == "gradient" else None,
        sensitivity=groups_of(groups) if recipe.quant.kind == "steps" else None,
        hessians=hessians_of(folder) if recipe.quant.correction == "hessian" else None,
        code_bytes=code_bytes, cap_bytes=recipe.cap_bytes,
    )  # fmt: skip
    tokens = load_tokens(paths[1], tokenizer.vocab_size)
    scores = {}
    for name, stride in (("roundtrip", recipe.eval.seq_len), ("sliding", recipe.eval.stride)):
        scores[f"{name}_bpb"] = score_artifact(
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
    for form in ("readable", "packed"):
        recipe, folder = dataclasses.replace(recipe, script=form), tmp_path / form
        script = write_script(recipe, folder)
        done = start(folder, *(() if form == "packed" else WITHOUT_PACKAGE), **environment)
        assert done.returncode == 0, done.stderr
        assert (folder / "seed7" / "final_model.pgolf").read_bytes() == expected
        result = json.loads((folder / "seed7" / "result.json").read_text())
        assert {key: result[key] for key in scores} == scores
        assert result["code_bytes"] == script.stat().st_size == code_bytes_of(recipe)
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
    code = "import sys; from pgolf_core.lab.export import export_script as export; "
    code += "from pgolf_core.recipes.reading import load_recipe as load; "
    code += "sys.stdout.write(export(load('local-smoke')))"
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
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
    pack(
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
    alone = score_artifact(
        package / "model.pgolf", load_tokens(sorted(data.glob("*_val_*.bin")), PIECES), tokenizer.bytes,
        recipe.eval.seq_len, recipe.eval.stride, recipe.eval.batch_seqs, autocast="off",
    )  # fmt: skip
    assert result["sliding_bpb"] == alone.bpb  # each rank scored a share
