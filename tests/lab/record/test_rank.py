"""Training from the command line: alone, as plain torchrun starts it, what it refuses, and ranks without a launcher."""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launched import FAULTY, core_arguments, ranks_of, small_run
from ranks import ended, on_ranks, wait_until
from refused import refused
from small import word_shards

from pgolf_core.base.files import sha256_file, write_json
from pgolf_core.base.parallel import ALONE, World
from pgolf_core.lab.record import rank as entry
from pgolf_core.recipes.recipe import to_dict
from pgolf_core.text.shards import shard_tokens
from pgolf_core.text.tokenizer import Tokenizer
from pgolf_core.training.checkpoint import load_tensors

ROOT = Path(__file__).resolve().parents[3]


def test_the_entry_point_trains_alone_and_a_mistake_is_a_line_that_torchrun_can_show(tmp_path, monkeypatch, capsys):
    arguments = core_arguments(small_run(tmp_path))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.argv", ["main", *arguments])
    entry.main()
    assert "step:12/12 train_loss:" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["main", *arguments, "--val", "nothing*.bin"])
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert end.value.code == 1
    line = "no shard fits 'nothing*.bin'; give a path or a quoted pattern, as 'data/*_train_*.bin'"
    assert capsys.readouterr().err == f"pgolf: {line}\n"
    said = json.loads((tmp_path / "error.json").read_text())["message"]
    assert said["message"] == said["extraInfo"]["py_callstack"] == line


def test_ranks_refuse_a_recipe_that_finds_documents_with_a_tokenizer_of_another_bos(tmp_path, monkeypatch, capsys):
    run = small_run(tmp_path)
    masked = dataclasses.replace(run.recipe, eval=dataclasses.replace(run.recipe.eval, document_mask=True))
    (run.folder / "recipe.json").write_text(json.dumps({**to_dict(masked), "fingerprint": masked.fingerprint}))
    monkeypatch.setattr("pgolf_core.text.tokenizer.BOS", 3)
    monkeypatch.setattr("sys.argv", ["main", *core_arguments(run)])
    with pytest.raises(SystemExit):
        entry.main()
    assert "finds documents by BOS = 3, but the tokenizer has 1" in capsys.readouterr().err


def test_a_manifest_beside_the_shards_names_each_of_them_and_the_tokenizer(tmp_path: Path):
    folder = tmp_path / "known"
    word_shards(folder, 300)
    train, val = sorted(folder.glob("*_train_*.bin")), sorted(folder.glob("*_val_*.bin"))
    tokenizer, sides = Tokenizer(folder / "tokenizer.model"), [("train", path) for path in train]
    assert train and val and entry.identify(train, val, tokenizer) == ""
    shards = [
        {"file": p.name, "bytes": p.stat().st_size, "tokens": shard_tokens(p), "sha256": sha256_file(p), "split": split}
        for split, p in [*sides, *(("val", path) for path in val)]
    ]
    values = {"shards": shards, "tokenizer": {"sha256": sha256_file(tokenizer.path)}}
    write_json(folder / "manifest.json", values)
    assert entry.identify(train, val, tokenizer) == sha256_file(folder / "manifest.json")
    more = Path(shutil.copy(train[0], folder / "more.bin"))
    whole = train[0].read_bytes()
    for given, message in (
        (([*train, more], val), r"more\.bin is not the shard that .* names"),
        (([*train, *val], val), "is given twice by --train and --val"),
        ((val, train), "--train is not all the train shards that .* names"),
    ):
        with refused(message):
            entry.identify(*given, tokenizer)
    train[0].write_bytes(whole[:-2] + whole[-4:-2])
    with refused(r"was changed since .* was written"):
        entry.identify(train, val, tokenizer)
    train[0].write_bytes(whole)
    write_json(folder / "manifest.json", values | {"tokenizer": {"sha256": "0"}})
    with refused(r"is not the tokenizer that .* names"):
        entry.identify(train, val, tokenizer)


def test_a_recipe_is_a_runs_file_or_a_name(tmp_path: Path) -> None:
    assert entry.read_recipe("local-smoke").name == "local-smoke"
    (tmp_path / "recipe.json").write_text("[]")
    with refused("does not hold a JSON object"):
        entry.read_recipe(str(tmp_path / "recipe.json"))


@pytest.mark.parametrize("seed", [-1, 10**15])
def test_a_seed_that_no_result_could_hold_is_refused_before_anything_is_read(seed: int) -> None:
    with refused(f"^--seed {seed} is not a whole number below"):
        entry._train(argparse.Namespace(seed=seed), ALONE)


def test_a_folder_that_another_training_holds_is_refused_after_a_while(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(entry, "LOCK_SECONDS", 0.2)
    with entry._alone_in(tmp_path), refused("at work in"), entry._alone_in(tmp_path):
        pass
    with entry._alone_in(tmp_path):
        pass


def disagree(world: World) -> None:
    here = "seed is 4 here and 3 at rank 0" if world.rank else "another host has another recipe, seed or dataset than"
    with refused(f"^{here}.*; give every host the same arguments$"):
        entry._check_agreement(world, "fingerprint", argparse.Namespace(seed=3 + world.rank, data_sha256="small"))
    entry._check_agreement(world, "fingerprint", argparse.Namespace(seed=3, data_sha256="small"))


def test_hosts_that_were_given_different_arguments_refuse_on_every_rank() -> None:
    on_ranks(2, disagree)


@pytest.mark.slow  # a launch each; tests/lab/record/test_launch.py has a launcher that is killed with its own parent
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_whose_launcher_is_ended_stop_and_leave_a_checkpoint(tmp_path: Path, how: signal.Signals) -> None:
    run = small_run(tmp_path, iterations=100_000)
    (tmp_path / "faulty.py").write_text(FAULTY.format(fault="pass"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, str(tmp_path / "faulty.py"), *core_arguments(run)], env=environment) as process:
        wait_until((tmp_path / "reached0").exists, "the sixth step")
        process.send_signal(how)
    assert process.returncode != 0
    wait_until(lambda: all(map(ended, ranks_of(run))), "the ranks' end", 30)
    assert load_tensors(run.folder / "checkpoint.safetensors")[1]["step"] >= 5
