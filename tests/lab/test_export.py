"""The single script: complete, alone, deterministic, and byte for byte the same artifact as the package's."""

import ast
import builtins
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from refused import refused
from small import small_recipe, word_shards

from pgolf_core import ROOMS
from pgolf_core.adapting.mixture import mix_score
from pgolf_core.adapting.trace import adapt_artifact
from pgolf_core.base.device import why_not_compile
from pgolf_core.base.names import SCRIPT_ARTIFACT, SEED_RESULT, TRAIN_LOG
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.lab import cli, export
from pgolf_core.lab.export import (
    CALLED,
    _PlainFormat,
    code_bytes_of,
    export_script,
    joined,
    readable_of,
    rooms_of,
    write_script,
)
from pgolf_core.lab.shared.places import CORE_DIR, SCRIPT
from pgolf_core.packing.pack import pack_averaged
from pgolf_core.packing.unpack import score_artifact
from pgolf_core.recipes.reading import available_recipes, load_recipe
from pgolf_core.recipes.recipe import Recipe, from_dict
from pgolf_core.text.shards import load_tokens
from pgolf_core.training.loop import TrainData, Trainer

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
    "adapting": small_recipe(
        model=SMALL, adapt={"kind": "sgd", "lr": 0.05, "epochs": 1, "chunk_tokens": 400, "batch_seqs": 7},
    ),
    "documents with adapters, a phase, a tilt": small_recipe(
        model=SMALL,
        adapt={"kind": "lora", "lr": 0.05, "chunk_tokens": 64, "lora_rank": 2, "lora_tokens": 16, "lora_lr": 0.02,
               "batch_documents": 4, "phases": 1, "phase_documents": 4, "tilt": "ngram", "tilt_order": 3},
    ),
    "frontier, shrunk": load_recipe("frontier", [
        "model.vocab_size=300", "model.num_layers=4", "model.model_dim=64", "model.num_heads=2", "model.num_kv_heads=1",
        "model.mlp_hidden=64", "model.rope_dims=8", "model.xsa_last_n=4", "model.loop_start=1", "model.loop_end=1",
        "model.parallel_start=2", "data.bytes=table", "data.seq_len=16", "data.batch_tokens=128",
        "data.spans_per_step=2", "data.micro_batch_seqs=4", "optim.newton_schulz_dtype=float32",
        "schedule.iterations=24", "schedule.max_seconds=0", "schedule.warmup_steps=1", "schedule.log_every_steps=8",
        "schedule.autocast=off", "schedule.compile=off", "quant.small_tensor_elements=100",
        "quant.correction_tokens=200", "eval.seq_len=16", "eval.stride=16", "eval.batch_seqs=8", "adapt.lora_rank=2",
        "adapt.lora_tokens=16", "adapt.batch_documents=4", "adapt.phase_documents=4", "adapt.chunk_tokens=64",
        "adapt.tilt_order=3",
    ]),
    "mixing": small_recipe(model=SMALL, adapt={"mix": "ngram"}),
    "adapting and mixing": small_recipe(
        model=SMALL, adapt={"kind": "sgd", "lr": 0.05, "epochs": 1, "chunk_tokens": 400, "mix": "ngram"},
    ),
    "grids by deviations, rounding corrected by activation, the head too": small_recipe(
        model=SMALL,
        quant={"attention": "int6_sigma", "mlp": "int6_sigma", "tok_emb": "int8_sigma", "correction": "hessian",
               "correction_tokens": 200, "correction_order": "activation", "correct_tok_emb": True},
    ),
    "window gates, lanes, two caps, scored inside documents": small_recipe(
        model={**SMALL, "smear": "window", "attn_gate": "sparse", "lanes": 2, "parallel_start": 2, "softcaps": "two"},
        eval={"document_mask": True},
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


# ---------------------------------------------------------------------- what is exported


def undefined(text: str) -> set[str]:
    """Names that a script uses and nothing in it defines."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", "--output-format=json", "-"]
    found = json.loads(subprocess.run(command, input=text, capture_output=True, text=True).stdout)
    return {fault["message"].split("`")[1] for fault in found}


def defined_in(room: str) -> set[str]:
    """Top-level names of a file of the core, without what it imports whole."""
    names = vars(importlib.import_module(f"pgolf_core.{room}"))
    return {name for name, value in names.items() if not inspect.ismodule(value)}


@pytest.fixture(autouse=True, scope="module")
def minified():
    """The minifier, which takes its time, once for each text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "minified", functools.cache(export.minified))
        yield export.minified


BY_ROOMS = {tuple(rooms_of(recipe)): recipe for recipe in map(load_recipe, available_recipes())}


@pytest.mark.parametrize("recipe", BY_ROOMS.values(), ids=lambda recipe: recipe.name)
def test_a_script_of_each_choice_of_rooms_stands_alone(recipe: Recipe):
    text = joined(recipe)
    left_out = [defined_in(room) for room in ROOMS if room not in rooms_of(recipe)]
    assert undefined(text) <= set().union(*left_out), "what a file that is left out would define, and nothing else"
    imports = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    coder = {"constriction"} if recipe.quant.kind == "steps" else set()
    assert imports - set(sys.stdlib_module_names) == MAY_IMPORT | coder
    assert "pgolf_core" not in "".join(line for line in text.splitlines() if "import" in line)


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipes_script_ends_with_its_values(name: str):
    recipe = load_recipe(name, ["script=readable"])
    text = export_script(recipe)
    literal = text.rpartition("\nRECIPE = ")[2].partition("\n\nif __name__")[0]
    assert from_dict(ast.literal_eval(literal.strip())) == dataclasses.replace(recipe, title="")
    assert "'fingerprint'" not in text and recipe.fingerprint in text


@pytest.mark.parametrize("name", ["local", pytest.param("pr315", marks=pytest.mark.slow)])  # minifies another text
def test_the_packed_script_is_small_and_reads_back_to_the_minified_one(name: str, tmp_path: Path, minified):
    recipe = load_recipe(name)
    assert recipe.script == "packed" and code_bytes_of(recipe) <= 40_100
    inside, plain = readable_of(write_script(recipe, tmp_path)), minified(joined(recipe))
    tree = ast.parse(plain)
    assert ast.dump(ast.parse(inside)) == ast.dump(tree)
    assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree)), "3.11 cannot read all"
    assert set(CALLED) <= {node.name for node in tree.body if hasattr(node, "name")}


@pytest.mark.parametrize("text, message", [
    ("import lzma\nexec(lzma.decompress(b'123'))\n", "wrapped in a way that pgolf does not write"),
    *((text, "not a readable Python script") for text in ("exec(", "-" * 10**5 + "1", "-" * 5000 + "1",
                                                          f"f{'.a' * 2000}()")),
], ids=lambda text: text[:30])  # fmt: skip
def test_another_wrapping_is_refused_unrun_and_a_plain_script_is_shown(text: str, message: str, tmp_path: Path):
    path = tmp_path / SCRIPT
    path.write_text(text)
    with refused(message):
        readable_of(path)
    with refused(r"^cannot read nope\.py: No such file or directory; name a train_gpt\.py$"):
        readable_of(Path("nope.py"))
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
def test_another_version_of_python_packs_the_same_bytes(python: str, tmp_path: Path, minified):
    found = interpreter(python)
    if not found:
        pytest.skip(f"no {python} here")
    minifier = Path(importlib.util.find_spec("python_minifier").origin).parent
    (tmp_path / "python_minifier").symlink_to(minifier)
    (tmp_path / "text").write_text(joined(load_recipe("local")))
    (tmp_path / "packing.py").write_text(
        f"import ast, builtins\nSCRIPT, CALLED = 'train_gpt.py', {CALLED!r}\n\n"
        + "\n".join(inspect.getsource(part) for part in (_PlainFormat, minified.__wrapped__))
        + "\nprint(minified(open('text').read()), end='')\n"
    )
    done = subprocess.run([found, "packing.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == minified(joined(load_recipe("local")))


def test_what_a_prompt_showed_last_changes_no_byte(minified, monkeypatch: pytest.MonkeyPatch):
    text = "def f(pair):\n    first, second, third = pair\n    _, last = second\n    return first, third, last\n"
    before = minified(text)
    minified.cache_clear()
    monkeypatch.setattr(builtins, "_", "what was shown", raising=False)
    assert minified(text) == before and builtins._ == "what was shown"


def test_the_command_writes_the_script_and_overwrites_no_other(tmp_path: Path, capsys):
    arguments = ["export", "local-smoke", "--out", str(tmp_path / "new"), "--set", "script=readable"]
    path = tmp_path / "new" / SCRIPT
    for _ in range(2):
        assert cli.main(arguments) == 0
        assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    assert cli.main([*arguments, "--set", "eval.stride=32"]) == 1
    assert "exists and is another script" in capsys.readouterr().err
    assert cli.main(["export", "nosuch", "--out", str(tmp_path)]) == cli.main(["export", "local-smoke"]) == 2
    capsys.readouterr()
    for more in (["local-smoke"], ["--out", "x"], ["--set", "script=readable"]):
        assert cli.main(["export", "--readable-of", str(path), *more]) == 2
        assert "it takes no recipe, no --out and no --set" in capsys.readouterr().err
    assert cli.main(["export", "--readable-of", str(path)]) == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")


# ---------------------------------------------------------------------- run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return word_shards(tmp_path_factory.mktemp("data"), PIECES)


def run_package(world: World, recipe: Recipe, data: TrainData, folder: Path) -> dict[str, float]:
    """What notebooks 03 to 06 do, by the same core functions; on each rank."""
    trainer = Trainer(recipe, 7, data, folder, world=world)
    trainer.run()
    path, scores = folder / SCRIPT_ARTIFACT, {}
    if world.first:
        pack_averaged(recipe, trainer.averaged, trainer.statistics(), path, code_bytes=12_345)
    world.meet()
    tokens = load_tokens(data.val_paths, data.vocab_size)
    for name, stride in (("roundtrip", recipe.eval.seq_len), ("sliding", recipe.eval.stride)):
        how = (recipe.eval.seq_len, stride, recipe.eval.batch_seqs)
        more = {"autocast": recipe.schedule.autocast, "document_mask": recipe.eval.document_mask, "world": world}
        found = score_artifact(path, tokens, data.token_bytes, *how, **more)
        scores[f"{name}_bpb"] = found.bpb
    if recipe.adapt.kind != "off":
        found = adapt_artifact(path, recipe, tokens, found, world=world).score
    if recipe.adapt.mix != "off":
        found = mix_score(recipe, tokens, found).score
    if {recipe.adapt.kind, recipe.adapt.mix} != {"off"}:
        scores["adapted_bpb"] = found.bpb
    (folder / f"scores{world.rank}.json").write_text(json.dumps(scores))
    return scores


def start(folder: Path, *how: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a folder's script from inside it, in an environment that knows of nothing else."""
    clean = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **environment}
    command = [sys.executable, "-I", *(how or (SCRIPT,))]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)


WITHOUT_PACKAGE = (
    "-c", "import runpy, sys; sys.modules['pgolf_core'] = None; runpy.run_path('train_gpt.py', run_name='__main__')"
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", SCRIPT)


def run_script_of(recipe: Recipe, data: TrainData, package: Path, folder: Path, *how: str, ranks: int = 1) -> str:
    """Run the recipe's script, and hold what it left against the package's; what it said."""
    scores = json.loads((package / "scores0.json").read_text())
    expected = (package / SCRIPT_ARTIFACT).read_bytes()
    script, shards = write_script(recipe, folder), data.val_paths[0].parent
    paths = {"DATA_PATH": str(shards), "TOKENIZER_PATH": str(shards / "tokenizer.model")}
    done = start(folder, *how, SEED="7", **paths)
    assert done.returncode == 0, done.stderr
    assert (folder / "seed7" / SCRIPT_ARTIFACT).read_bytes() == expected
    result = json.loads((folder / "seed7" / SEED_RESULT).read_text())
    assert {key: result[key] for key in scores} == scores
    assert result["code_bytes"] == script.stat().st_size == code_bytes_of(recipe)
    assert result["total_bytes"] == len(expected) + result["code_bytes"]
    assert (result["recipe_sha256"], result["seed"], result.get("ranks", 1)) == (recipe.fingerprint, 7, ranks)
    said = done.stdout.splitlines()
    name, kind = ("adapted", "adapted") if "adapted_bpb" in scores else ("sliding_window", "sliding")
    exact = f"val_loss:{result[f'{kind}_loss']:.8f} val_bpb:{scores[f'{kind}_bpb']:.8f}"
    assert said[-1] == f"final_{name}_exact {exact}" and done.stdout.count(said[-1]) == 1
    assert f"Serialized model: {len(expected)} bytes" in said
    logs = [(place / TRAIN_LOG).read_text().splitlines() for place in (package, folder / "seed7")]
    ours, theirs = ([line.split(" train_time")[0] for line in log] for log in logs)
    assert ours == [line for line in theirs if line in ours]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_script_alone_makes_the_same_artifact_as_the_package(name: str, data: TrainData, tmp_path: Path):
    run_package(ALONE, VARIANTS[name], data, tmp_path / "package")
    run_script_of(VARIANTS[name], data, tmp_path / "package", tmp_path / "packed")
    if name == "ema":
        readable = dataclasses.replace(VARIANTS[name], script="readable")
        run_script_of(readable, data, tmp_path / "package", tmp_path / "readable", *WITHOUT_PACKAGE)


@pytest.mark.slow
def test_a_packed_script_that_torch_compiles_makes_the_packages_bytes(data: TrainData, tmp_path: Path):
    if reason := why_not_compile(torch.device("cpu")):
        pytest.skip(reason)
    recipe = small_recipe(model={**SMALL, "num_layers": 1}, schedule={"compile": "auto"})
    run_package(ALONE, recipe, data, tmp_path / "package")
    assert "graph: compiled" in run_script_of(recipe, data, tmp_path / "package", tmp_path / "packed")


@pytest.mark.slow
def test_under_torchrun_the_script_makes_what_the_package_makes_with_as_many_ranks(data: TrainData, tmp_path: Path):
    recipe, package = VARIANTS["mixing"], tmp_path / "package"
    on_ranks(2, run_package, recipe, data, package)
    assert len({(package / f"scores{rank}.json").read_text() for rank in (0, 1)}) == 1
    run_script_of(recipe, data, package, tmp_path / "packed", *TORCHRUN, ranks=2)


@pytest.mark.slow  # a process that minifies anew
def test_another_process_with_another_hash_seed_exports_the_same_bytes():
    code = "import sys; from pgolf_core.lab.export import export_script as export; "
    code += "from pgolf_core.recipes.reading import load_recipe as load; "
    code += "sys.stdout.write(export(load('local-smoke')))"
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": str(CORE_DIR.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == export_script(load_recipe("local-smoke"))
