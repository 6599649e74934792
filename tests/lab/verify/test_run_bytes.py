"""The verifier's counting of bytes: mutated and foreign artifacts, the counted script, and ledgers.

pytest tests/lab/verify/test_run_bytes.py (-m slow for thousands of mutations; trains one more toy for the ledgers)
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reviewing import JUNK, both, damaged, damages, failing, got, holding, places_of, replaced
from toy_run import RECIPE, change, finish_seed, toy_corpus

from pgolf_core.base.files import canonical_json, read_json, sha256_bytes, write_json
from pgolf_core.lab.record.folder import open_run, recorded_recipe
from pgolf_core.lab.verify.evidence.checks import Broken
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.lab.verify.reading.seed import Seed
from pgolf_core.lab.verify.run_bytes import first_difference, ledger
from pgolf_core.packing.format import MAGIC, VERSION, checksum
from pgolf_core.packing.pack import _compress, pack
from pgolf_core.packing.unpack import read_header, unpack

CAP = "file and code fit under the cap"


@both
def test_no_mutation_of_an_artifact_holds_or_raises(honest: Path, cache: Path, tmp_path: Path, how: settings):
    source, path = honest / "seed1" / "model.pgolf", tmp_path / "model.pgolf"
    whole, header = source.read_bytes(), read_header(source)

    def says_the_same() -> bool:  # of a zstd frame a bit or two mean nothing
        return read_header(path) == header and len(path.read_bytes()) == len(whole)

    @how
    @given(what=damages(len(whole)))
    def check(what: list[tuple[str, int, bytes]]) -> None:
        payload = damaged(whole, what)
        path.write_bytes(payload)
        held = holding(path, cache)
        assert len(held) == 3 if payload == whole else not held or says_the_same()

    check()


def signed(header: dict[str, Any], streams: bytes) -> bytes:
    """An artifact whose checksum is right, whatever its header says."""
    digest = checksum({key: value for key, value in header.items() if key != "sha256"}, streams)
    text = canonical_json({**header, "sha256": digest}).encode("ascii")
    (packed,) = _compress([text], 3)
    return struct.pack("<8sHI", MAGIC, VERSION, len(packed)) + packed + streams


@both
def test_a_hostile_header_with_a_right_checksum_never_raises_or_makes_a_model_of_other_weights(
    honest: Path, cache: Path, tmp_path: Path, how: settings
):
    source, path = honest / "seed1" / "model.pgolf", tmp_path / "model.pgolf"
    header = read_header(source)
    streams = source.read_bytes()[-sum(header["streams"].values()) :]
    plain = {key: value for key, value in header.items() if key != "sha256"}
    path.write_bytes(signed(plain, streams))
    assert len(holding(path, cache)) == 3
    places = sorted(places_of(plain), key=str)

    @how
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        at, new = data.draw(st.sampled_from(places)), data.draw(JUNK)
        try:
            path.write_bytes(signed(replaced(plain, at, new), streams))
        except ValueError:
            return  # not a number or no ASCII: no header that could be written
        held = holding(path, cache)
        if at[0] != "model" and json.dumps(new) != json.dumps(got(plain, at)):
            assert "tensors fit the artifact's own model" not in held

    check()


def test_the_weights_of_another_model_or_grid_are_found(run: Path, cache: Path):
    seed = run / "seed1"
    recipe = recorded_recipe(seed)
    quant = type(recipe.quant)(attention="int8_row_clip", mlp="int8_row_clip", small_tensor_elements=100)
    packed = pack(
        unpack(seed / "model.pgolf")[1], recipe.model, quant, seed / "model.pgolf", code_bytes=0, cap_bytes=10**6
    )
    change(seed / "result.json", artifact_bytes=packed.file_bytes)
    found = failing(seed, cache)
    assert {"the artifact is this recipe's model", "ledger.json is the file's"} <= found
    assert "artifact opens and is whole" not in found


def test_code_of_the_exported_scripts_size_is_the_other_size_that_counts(run: Path, cache: Path):
    (run / "train_gpt.py").unlink()
    for name in ("result.json", "ledger.json"):
        values = read_json(run / "seed1" / name)
        total = values["total_bytes"] - values["code_bytes"] + 10**5
        change(run / "seed1" / name, code_bytes=10**5, total_bytes=total)
    assert failing(run / "seed1", cache) == set()
    for text in (b"#" * 99_999, b"#" * 100_000):
        (run / "seed1" / "train_gpt.py").write_bytes(text)
        assert failing(run / "seed1", cache) == {CAP}
    change(run / "seed1" / "result.json", script_sha256=sha256_bytes(text))
    assert failing(run / "seed1", cache) == set()


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that gathered gradients, all its matrices corrected and on steps; the seed's folder."""
    root = tmp_path_factory.mktemp("steps")
    toy_corpus(root)
    steps = 'quant = {kind = "steps", target_bytes = 500_000, correction = "hessian", correction_tokens = 512, '
    text = 'script = "readable"\n' + RECIPE.replace("quant = {", steps).replace("iterations = 8", "iterations = 24")
    (root / "toy.toml").write_text(text.replace("_iters = 4", "_iters = 22"))
    run = open_run(str(root / "toy.toml"), seed=1, runs_dir=str(root / "runs"), cache_dir=str(root))
    finish_seed(run)
    return run.folder


def judged_ledger(folder: Path, changed: dict, correction: Any = None) -> str:
    """What verify says of a seed's ledger with these values."""
    write_json(folder / "ledger.json", changed)
    change(folder / "result.json", correction=changed["correction"] if correction is None else correction)
    return ledger(Seed(folder, How()))


def test_the_ledger_of_a_run_with_every_matrix_on_steps_holds_and_a_changed_share_does_not(corrected: Path):
    honest = read_json(corrected / "ledger.json")
    try:
        assert {row["grid"] for row in honest["tensors"]} == {"fp16", "steps"}
        assert "tensors" in judged_ledger(corrected, honest)
        told = honest["steps"]
        for wrong in (None, told | {"side_bytes": "1"}, told | {"coded_bytes": told["coded_bytes"] + 1}):
            with pytest.raises(Broken, match=r"make up the steps|no number"):
                judged_ledger(corrected, {**honest, "steps": wrong})
        row = next(row for row in honest["tensors"] if row["grid"] == "steps")
        row["compressed_bytes"] += 1
        with pytest.raises(Broken, match="do not make up the steps"):
            judged_ledger(corrected, honest)
    finally:
        row["compressed_bytes"] -= 1
        judged_ledger(corrected, honest)


def test_what_a_ledger_tells_of_a_correction_is_the_recipes_and_of_the_files_matrices(corrected: Path, honest: Path):
    values = read_json(corrected / "ledger.json")
    told = values["correction"]
    assert told["matrices"] > 0 and "tensors" in judged_ledger(corrected, values)
    wrong = [
        {"damping": 2 * told["damping"]}, {"raised": {"smear.gate": 1.0}}, {"raised": None}, {"plain": ["none"]},
        {"matrices": 10**6}, {"matrices": True}, {"tokens": "512"}, {"tokens": 0},
    ]  # fmt: skip
    for edit in wrong:
        with pytest.raises(Broken, match="correction: "):
            judged_ledger(corrected, {**values, "correction": told | edit})
    with pytest.raises(Broken, match="tells nothing"):
        judged_ledger(corrected, {**values, "correction": None})
    with pytest.raises(Broken, match=r"correction.tokens is not that"):
        judged_ledger(corrected, {**values, "correction": told | {"tokens": 7}}, told)


def test_a_correction_that_the_recipe_has_not_is_found(run: Path, cache: Path):
    change(run / "seed1" / "ledger.json", correction={"damping": 0.01})
    assert failing(run / "seed1", cache) == {"ledger.json is the file's"}


@pytest.mark.parametrize(
    ("expected", "found", "place"),
    [
        ({"seeds": [1, 2]}, {"seeds": [True, 2]}, "seeds[0]"), ({"seeds": [1, 2]}, {"seeds": [1]}, "seeds[1]"),
        ({"a": {"b": 1}}, {"a": {"b": True}}, "a.b"), ([{"a": 1}, {"a": "x"}], [{"a": 1}, {"a": "y"}], "[1].a"),
        ({"seeds": [1, 2.0]}, {"seeds": [1, 2]}, ""), ({"a": [None]}, {"a": [None]}, ""), ({"a": []}, {"b": []}, "a"),
        ({"a": 1}, {"a": 1, "b": None}, "b"), ({"a": None}, {}, "a"), (1, [1], "all of it"),
    ],
)  # fmt: skip
def test_the_first_difference_of_two_json_values_is_found_in_lists_too_and_true_is_not_one(expected, found, place):
    assert first_difference(expected, found) == place
