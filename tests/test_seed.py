"""One seed whole: its result there and back, its lines of the log, and a script's run in this process."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ranks import on_ranks
from small import column, small_recipe, word_shards

from pgolf_core.base.files import sha256_file
from pgolf_core.base.names import ADAPT_TRACE, METRICS, SCORES, SCRIPT_ARTIFACT, SEED_RESULT, TRAIN_LOG, TRAIN_RESULT
from pgolf_core.base.parallel import World
from pgolf_core.network.score import Score
from pgolf_core.packing.ledger import Ledger
from pgolf_core.packing.pack import pack_averaged
from pgolf_core.packing.unpack import score_artifact
from pgolf_core.recipes.recipe import Recipe
from pgolf_core.result import Result
from pgolf_core.seed import result_of, run_script, run_seed, score_lines, size_lines
from pgolf_core.text.shards import load_tokens
from pgolf_core.training.loop import Trainer
from pgolf_core.training.runlog import TrainResult

PIECES = 300
RECIPE = small_recipe(model={"vocab_size": PIECES}, schedule={"iterations": 4, "warmup_steps": 0})
BOTH = [Score(1.25, 2.5, 100.0, 40, 57, 5, 16, stride, 0.25, np.zeros(40, np.float32)) for stride in (16, 4)]
LEDGER = Ledger(300, 50, 40, 20, 360, 1000, 1360, 16_000_000, [])
TOLD = {"damping": 0.01, "tokens": 208, "matrices": 3, "raised": {"w": 0.1}, "plain": []}


def some_result(**further: object) -> Result:
    trained = TrainResult(12, 1536, 99, "clock", {"train": 1.5}, 0.0, [4], 2, "device: cpu")
    known = {"seconds": {"train": 1.5, "total": 2.0}, "data_sha256": "d", "core_sha256": "c", "script_sha256": "s"}
    return result_of(RECIPE, 7, trained, LEDGER, *BOTH, **known, **further)


@pytest.mark.parametrize(("cap", "over"), [(0.0, None), (1.5, None), (1.25, 0.25)])
def test_a_training_beyond_its_recipes_cap_says_so(monkeypatch, cap: float, over: float | None) -> None:
    monkeypatch.setitem(globals(), "RECIPE", small_recipe(schedule={"max_seconds": cap}))
    assert some_result().over_cap_seconds == over
    assert ("over_cap_seconds" in some_result().to_dict()) is (over is not None)


def test_sizes_and_scores_are_told_in_the_fields_words() -> None:
    """Of papers/machinery.md, "Log lines"."""
    sizes = ["Serialized model: 360 bytes", "Code size: 1000 bytes", "Total submission size: 1360 bytes"]
    assert size_lines(LEDGER) == sizes
    corrected = "Correction: damping:0.01 tokens:208 matrices:3 raised:w=0.1 plain:none"
    assert size_lines(dataclasses.replace(LEDGER, correction=TOLD)) == [*sizes, corrected]
    assert score_lines(*BOTH) == [
        "final_roundtrip val_loss:2.5000 val_bpb:1.2500 stride:16 seq_len:16 eval_time:250ms",
        "final_roundtrip_exact val_loss:2.50000000 val_bpb:1.25000000",
        "final_sliding_window val_loss:2.5000 val_bpb:1.2500 stride:4 seq_len:16 eval_time:250ms",
        "final_sliding_window_exact val_loss:2.50000000 val_bpb:1.25000000",
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    return word_shards(tmp_path_factory.mktemp("data"), PIECES)


@pytest.fixture
def told(data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a script is told to write to; it is told seed and data, too."""
    shards = data.val_paths[0].parent
    for name, value in {"SEED": "7", "DATA_PATH": shards, "TOKENIZER_PATH": shards / "tokenizer.model",
                        "OUT_DIR": tmp_path / "out"}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return tmp_path / "out"


def test_a_script_trains_packs_and_scores_as_the_package_does(data, told: Path, tmp_path: Path, capsys) -> None:
    folder, script = told, tmp_path / "train_gpt.py"
    script.write_bytes(bytes(1000))
    folder.mkdir()
    for name in (METRICS, ADAPT_TRACE):
        (folder / name).write_text("of an earlier run")
    run_script(RECIPE, str(script))
    trainer, path = Trainer(RECIPE, 7, data, tmp_path / "package"), tmp_path / "package" / SCRIPT_ARTIFACT
    trainer.run()
    ledger = pack_averaged(RECIPE, trainer.averaged, trainer.statistics(), path, 1000)
    assert (folder / SCRIPT_ARTIFACT).read_bytes() == path.read_bytes()
    result = Result.read(folder / SEED_RESULT)
    assert (result.code_bytes, result.total_bytes, result.ranks) == (1000, ledger.total_bytes, 1)
    assert result.script_sha256 == sha256_file(script) and result.core_sha256 == result.data_sha256 == ""
    assert result.recipe_sha256 == RECIPE.fingerprint and result.raw_bpb is None
    assert result.seconds["total"] > result.seconds["train"] > 0 < result.seconds["scoring"]
    tokens = load_tokens(data.val_paths, PIECES)
    nats = np.load(folder / SCORES)
    for found, kind, stride in ((result.roundtrip_bpb, "roundtrip", 16), (result.sliding_bpb, "sliding", 4)):
        score = score_artifact(path, tokens, data.token_bytes, 16, stride, 8, autocast="off")
        assert found == score.bpb and np.array_equal(nats[kind], score.window_nats)
    assert result.scores_sha256 == sha256_file(folder / SCORES)
    assert column(folder, "step") == [1, 2, 3, 4]
    log = (folder / TRAIN_LOG).read_text().splitlines()
    assert log[0].startswith("val_bpb:enabled tokenizer_kind=sentencepiece") and f"tokens:{len(tokens)}" in log[2]
    assert all(line in log for line in size_lines(ledger)) and log[-1].startswith("final_sliding_window_exact ")
    said = capsys.readouterr().out.splitlines()
    assert [line for line in log if line in said] == said
    left = {METRICS, SCORES, SCRIPT_ARTIFACT, SEED_RESULT, TRAIN_LOG, TRAIN_RESULT}
    assert {path.name for path in folder.iterdir()} == left, "weights and statistics stay in memory"


@pytest.mark.parametrize(("kind", "mix"), [("sgd", "off"), ("sgd", "ngram"), ("off", "ngram")])
def test_ranks_adapt_together_and_the_first_mixes_and_tells_it(data, tmp_path: Path, kind: str, mix: str) -> None:
    """test_export.py holds a script's adapted score against the package's."""
    adapt = {"kind": kind, "mix": mix, "lr": 0.05, "epochs": 1, "chunk_tokens": 400}
    recipe = small_recipe(model={"vocab_size": PIECES}, schedule={"iterations": 4, "warmup_steps": 0}, adapt=adapt)
    on_ranks(2, _run, recipe, data.val_paths[0].parent, tmp_path)
    result = Result.read(tmp_path / SEED_RESULT)
    assert result.ranks == 2 and result.adapt_sha256 == sha256_file(tmp_path / ADAPT_TRACE)
    with np.load(tmp_path / ADAPT_TRACE) as file:
        assert ("events" in file, "mixed" in file) == (kind == "sgd", mix == "ngram")
        assert result.seconds["adapting"] == sum(file[key].sum() for key in ("seconds", "mix_seconds") if key in file)
    log = (tmp_path / TRAIN_LOG).read_text().splitlines()
    assert [line.split()[0] for line in log[-2:]] == ["final_adapted", "final_adapted_exact"]
    assert log[-1].endswith(f"val_bpb:{result.adapted_bpb:.8f}") and result.adapted_bpb != result.sliding_bpb


def _run(world: World, recipe: Recipe, shards: Path, folder: Path) -> None:
    run_seed(recipe, 7, shards, shards / "tokenizer.model", folder, world, Path(__file__))


def test_a_script_that_finds_documents_refuses_a_tokenizer_of_another_bos(told, monkeypatch, capsys) -> None:
    monkeypatch.setattr("pgolf_core.text.tokenizer.BOS", 3)
    with pytest.raises(SystemExit) as end:
        run_script(small_recipe(model={"vocab_size": PIECES}, data={"order": "packed"}), __file__)
    line = "error: unnamed finds documents by BOS = 3, but the tokenizer has 1; choose another\n"
    assert (end.value.code, capsys.readouterr().err) == (1, line) and not told.exists()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SEED", "one", "SEED=one is not a whole number"),
        ("SEED", "-1", "SEED=-1 is not a whole number"),
        ("SEED", "9" * 16, f"SEED={'9' * 16} is not a whole number below 10^15"),
        ("DATA_PATH", "nowhere", "no *_train_*.bin in nowhere; set DATA_PATH to the folder of the shards"),
        ("TOKENIZER_PATH", "none.model", "tokenizer none.model does not exist"),
    ],
)
def test_what_a_script_lacks_is_one_line_and_status_1(told, monkeypatch, capsys, variable, value, words) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as end:
        run_script(RECIPE, __file__)
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.startswith(f"error: {words}") and error.count("\n") == 1


def test_ctrl_c_is_a_line_and_status_130_wherever_it_comes(told, monkeypatch, capsys) -> None:
    for why in (KeyboardInterrupt("training stopped at step 3"), KeyboardInterrupt()):

        def stopped(*arguments: object, why: KeyboardInterrupt = why) -> None:
            raise why

        monkeypatch.setattr("pgolf_core.seed.run_seed", stopped)
        with pytest.raises(SystemExit) as end:
            run_script(RECIPE, __file__)
        assert (end.value.code, capsys.readouterr().err) == (130, f"stopped: {why}\n")
