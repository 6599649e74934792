"""The submission folder: complete, counted to the byte, checkable by its reader, and whole or absent."""

import datetime
import html
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from run_folder import change

from pgolf_core.base.files import UserError, read_json, sha256_bytes
from pgolf_core.lab.compare.results import recorded_recipe
from pgolf_core.lab.export import export_script
from pgolf_core.lab.submission import folder as submission
from pgolf_core.lab.submission.folder import changed_keys, imports_of, write_submission
from pgolf_core.lab.verify.command import verify
from pgolf_core.lab.verify.evidence.checks import FAILS, HOLDS
from pgolf_core.lab.verify.evidence.score import How
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import TRACK_CAP_BYTES
from pgolf_core.result import Result

HOSTILE = "<script>alert(1)</script> ![x](http://e.example/p.png) | `a` # @everyone ../../etc $x$ **b** <!--"
WHO = {"name": "A toy of two layers", "author": "Ada Lovelace", "github_id": "ada"}
PR_315_KEYS = (
    "author", "github_id", "name", "blurb", "date", "val_loss", "val_bpb", "pre_quant_val_loss", "pre_quant_val_bpb",
    "int6_zstd_val_loss", "int6_zstd_val_bpb", "bytes_total", "bytes_model_int6_zstd", "bytes_code",
)  # fmt: skip


@pytest.fixture(scope="module")
def written(honest: Path) -> Path:
    """The run's submission; nobody changes it."""
    return write_submission(honest, **WHO)


def results(folder: Path) -> dict[int, dict]:
    return {seed: read_json(folder / f"seed{seed}" / "result.json") for seed in (1, 2)}


def refused(folder: Path, why: str, **changes: str) -> None:
    """write_submission says why, in two lines at most, and leaves nothing behind, not even hidden."""
    with pytest.raises(UserError, match=why) as caught:
        write_submission(folder, **(WHO | changes))
    assert str(caught.value).count("\n") <= 1
    place = folder.parent / "submissions"
    assert not place.exists() or not any(place.iterdir())


# ---------------------------------------------------------------------- what is in it


def test_the_folder_holds_what_it_should_and_lies_beside_the_run(honest: Path, written: Path):
    names = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    figures = ("seeds", "curves", "bytes", "ledger", "tensors")
    drawn = {f"figures/{name}.{end}" for name in figures for end in ("png", "csv")}
    others = {"README.md", "submission.json", "requirements.txt", "model.pgolf", "train_seed1.log", "train_seed2.log"}
    assert names == others | drawn | {"train_gpt.py", "scores.npz"}
    scores = (honest / "seed1" / "scores.npz").read_bytes()
    assert (written / "scores.npz").read_bytes() == scores
    assert read_json(written / "submission.json")["seed_results"]["1"]["scores_sha256"] == sha256_bytes(scores)
    begun = read_json(honest / "seed2" / "env.json")["begun"][:10]
    assert written == honest.parent / "submissions" / f"{begun}_a-toy-of-two-layers"
    assert list(written.parent.iterdir()) == [written], "no temporary folder is left"


def test_code_artifact_and_logs_are_the_runs_own_bytes_and_the_counted_ones(honest: Path, written: Path):
    script = (written / "train_gpt.py").read_bytes()
    assert script == (honest / "train_gpt.py").read_bytes()
    assert script.decode() == export_script(recorded_recipe(honest))
    numbers = read_json(written / "submission.json")
    assert numbers["bytes_code"] == len(script) == read_json(honest / "seed2" / "ledger.json")["code_bytes"]
    assert numbers["bytes_model_int6_zstd"] == (written / "model.pgolf").stat().st_size
    assert numbers["bytes_total"] == numbers["bytes_code"] + numbers["bytes_model_int6_zstd"] < 1_000_000
    assert (written / "model.pgolf").read_bytes() == (honest / "seed1" / "model.pgolf").read_bytes()
    for seed in (1, 2):
        log = (written / f"train_seed{seed}.log").read_bytes()
        assert log == (honest / f"seed{seed}" / "train.log").read_bytes() and f"seed:{seed}".encode() in log
        result = results(honest)[seed]
        assert f"Total submission size: {result['total_bytes']} bytes\n".encode() in log
        assert log.endswith(f"val_loss:{result['sliding_loss']:.8f} val_bpb:{result['sliding_bpb']:.8f}\n".encode())


def test_submission_json_has_the_published_keys_with_means_and_every_seed(honest: Path, written: Path):
    numbers, runs = read_json(written / "submission.json"), results(honest)
    assert tuple(numbers)[: len(PR_315_KEYS)] == PR_315_KEYS
    assert {key: numbers[key] for key in WHO} == WHO
    for key, source in (("val", "sliding"), ("pre_quant_val", "averaged"), ("int6_zstd_val", "roundtrip")):
        for part in ("loss", "bpb"):
            mean = statistics.mean(run[f"{source}_{part}"] for run in runs.values())
            assert math.isclose(numbers[f"{key}_{part}"], mean, rel_tol=1e-12)
    assert numbers["val_bpb_std"] == pytest.approx(statistics.stdev(run["sliding_bpb"] for run in runs.values()))
    assert numbers["seeds"] == [1, 2] and set(numbers["seed_results"]) == {"1", "2"}
    assert all(numbers["seed_results"][str(s)]["val_bpb"] == run["sliding_bpb"] for s, run in runs.items())
    assert (numbers["pre_quant_val_targets"], numbers["val_targets"]) == (200, runs[1]["val_targets"])


def test_requirements_pin_what_the_script_imports(written: Path):
    lines = (written / "requirements.txt").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == ["numpy", "sentencepiece", "torch", "zstandard"]
    assert all(re.fullmatch(r"[a-z]+==\d[\w.]*", line) for line in lines), "no local build tag, which no index has"


def test_an_import_that_a_script_only_tries_is_not_required():
    text = "import os\nimport torch.nn\ntry:\n    from flash_attn import f\nexcept ImportError:\n    f = None\n"
    assert imports_of(text + "def g():\n    from zstandard import x\n") == {"torch", "zstandard"}


def test_the_reviewer_finds_the_artifact_in_order(written: Path):
    rows = verify(written, How())
    assert [row.verdict for row in rows if row.check.startswith("model.pgolf: ")] == [HOLDS] * 3
    (readme,) = [row for row in rows if row.check == "README.md says what logs and file say"]
    assert "no number of this folder" not in readme.evidence, "a difference in bpb is no score"
    failing = [row.check for row in rows if row.verdict == FAILS]  # the toy's text is not the track's
    assert failing == ["each score implies the split's bytes"]


# ---------------------------------------------------------------------- README.md


def test_the_readme_tells_what_is_new_every_seed_bytes_seconds_figures_and_the_commands(run: Path, tmp_path: Path):
    for seed in (1, 2):
        change(run / f"seed{seed}" / "result.json", ranks=4)  # on two hosts, say, each of which has two in launch.json
    (run / "seed1" / "launch.json").write_text('{"nproc": 2}')
    written = write_submission(run, "A toy", "Ada", "ada", tmp_path / "out")
    text = (written / "README.md").read_text()
    for result in (Result.read(run / f"seed{seed}" / "result.json") for seed in (1, 2)):
        assert f"{result.sliding_bpb:.4f}" in text and f"{result.total_bytes:,}" in text
        assert f"{result.seconds['total']:,.1f}" in text and f"{result.cap_bytes - result.total_bytes:,}" in text
    assert "| **mean** |" in text and "| **std** |" in text and "| **whole** |" in text
    assert re.search(r"^pgolf record toy\.toml --seeds 1,2", text, re.MULTILINE)
    assert "| model.num\\_layers | 11 | 2 |" in text and "differ from the defaults" in text
    launch = "torchrun --standalone --nproc_per_node=4"
    assert re.search(rf"^DATA_PATH=DATA TOKENIZER_PATH=TOKENIZER SEED=2 {launch} train_gpt.py$", text, re.MULTILINE)
    size = (written / "train_gpt.py").stat().st_size
    assert f"Code is `train_gpt.py` (packed), {size:,} bytes; the cap of local\\_10min\\_1mb is 1,000,000" in text
    shown = set(re.findall(r"]\((figures/[a-z]+\.(?:png|csv))\)", text))
    assert shown == {path.relative_to(written).as_posix() for path in (written / "figures").iterdir()}
    assert "The scores do not compare" in text and "| pr315 (merged) |" in text
    assert "on the first 200 of" in text, "what was scored on a part says so"
    assert "Keller Jordan" in text and "PR 194, 315, 332, 531, 534, 1493, 1855, 2135." in text
    assert all(f"- `{path.name}`" in text for path in written.glob("*.npz")) and str(run.parent) not in text
    assert "What the model says" not in text and "summary.json" not in text


def test_what_is_new_is_told_against_the_recipe_that_the_file_extends():
    base, rows = changed_keys(load_recipe("local-smoke", ["average.kind=none"]))
    assert base == "recipe pr315"
    changed = {key: (there, here) for key, there, here in rows}
    assert changed["model.model_dim"][0] == "512" and changed["average.kind"] == ('"ema"', '"none"')
    assert "model.logit_softcap" not in changed and "title" not in changed
    assert changed_keys(load_recipe("pr315"))[0] == "the defaults"


def test_hostile_names_titles_and_citations_are_only_text(run: Path):
    for folder in (run, run / "seed1", run / "seed2"):
        change(folder / "recipe.json", title=HOSTILE + "\n# heading", name="../" + HOSTILE)
    for seed in (1, 2):
        change(run / f"seed{seed}" / "result.json", recipe="../" + HOSTILE)
    (run / "data.json").write_text(json.dumps({"citation": HOSTILE}))
    folder = write_submission(run, HOSTILE, HOSTILE, "ada")
    assert folder.parent == run.parent / "submissions"
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


# ---------------------------------------------------------------------- whole or absent


def test_a_folder_that_exists_is_never_touched(honest: Path, tmp_path: Path):
    out, link = tmp_path / "mine", tmp_path / "link"
    out.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    for place in (out, link):
        with pytest.raises(UserError, match="exists already"):
            write_submission(honest, **WHO, out=place)
    assert not any(out.iterdir()) and not (tmp_path / "nowhere").exists()


def test_a_failure_half_way_leaves_nothing(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(submission, "readme", full)
    with pytest.raises(UserError, match="No space left"):
        write_submission(honest, **WHO, out=tmp_path / "place" / "mine")
    assert list((tmp_path / "place").iterdir()) == []


def test_an_unfinished_contradictory_or_outdated_run_is_refused(run: Path):
    result = run / "seed2" / "result.json"
    payload = result.read_bytes()
    result.unlink()
    refused(run, "does not exist; run `pgolf record")
    result.write_bytes(payload)
    change(result, sliding_bpb=0.5)
    refused(run, "sliding_bpb does not follow from")
    change(result, **json.loads(payload))
    change(result, core_sha256="0" * 64)
    refused(run, "env.json has other hashes than result.json")
    environment = result.with_name("env.json").read_bytes()
    change(result.with_name("env.json"), hashes=read_json(result.with_name("env.json"))["hashes"] | {"core": "0" * 64})
    refused(run, "differ in core_sha256")
    change(result.with_name("env.json"), **json.loads(environment))
    change(result, **json.loads(payload))
    artifact = run / "seed1" / "model.pgolf"
    artifact.write_bytes(bytes(artifact.stat().st_size))
    refused(run, "model.pgolf was changed after its stage had ended")
    artifact.unlink()
    refused(run, "lacks model.pgolf")
    (run / "data.json").unlink()
    refused(run, "has no data.json, which names the data's source")
    (run / "summary.json").write_text(json.dumps({"seeds": [1, 2, 3]}))
    refused(run, "reports seed 3, whose folder is gone, .* run `pgolf record .*--seeds 3")
    for strange in (3, "12", {"1": 1}, [[1]]):
        (run / "summary.json").write_text(json.dumps({"seeds": strange}))
        refused(run, "its seeds are no list of seeds; delete it and run `pgolf record .*--report-only`")
    refused(run / "seed1", "no seed<k> folders")
    refused(run / "nosuch", "no seed<k> folders")


def test_a_script_that_is_not_the_counted_one_is_refused_and_one_seed_claims_no_spread(run: Path):
    script = run / "train_gpt.py"
    text = script.read_text()
    script.write_text(text + "\n")
    refused(run, "is not the script that seed 1 counted")
    script.unlink()
    refused(run, "has no train_gpt.py")
    script.write_text(text)
    shutil.rmtree(run / "seed2")
    (run / "summary.json").unlink()  # as if it had never been reported
    change(run / "recipe.json", title="")  # its name stands for it
    numbers = read_json(write_submission(run, **WHO) / "submission.json")
    assert numbers["val_bpb_std"] is None and numbers["seeds"] == [1]
    assert numbers["blurb"].startswith("toy. Sliding ") and "±" not in numbers["blurb"]


def test_a_run_over_the_cap_is_refused_with_the_bytes(run: Path, monkeypatch: pytest.MonkeyPatch):
    cap = read_json(run / "seed2" / "result.json")["total_bytes"] - 1
    monkeypatch.setitem(TRACK_CAP_BYTES, "local_10min_1mb", cap)
    for seed, name in itertools.product((1, 2), ("result", "ledger")):
        change(run / f"seed{seed}" / f"{name}.json", cap_bytes=cap)
    refused(run, rf"seed . takes [\d,]+ bytes, [\d,]+ over the cap of local_10min_1mb \({cap:,}\)")


@pytest.mark.parametrize("wrong", ["", "   ", "two\nlines", "bell\x07", "right\u202eleft", "x" * 201])
def test_a_name_that_is_no_line_of_text_is_refused(run: Path, wrong: str):
    for what in ("name", "author", "github_id"):
        refused(run, "printable characters", **{what: wrong})


@pytest.mark.parametrize("wrong", ["c d", "@ada", "-ada", "ada/repo", "x" * 40, "ädä", "ada.l", "a@b.org"])
def test_an_account_that_github_cannot_have_is_refused(run: Path, wrong: str):
    refused(run, "is no account's name: letters, digits and hyphens, 39 at most", github_id=wrong)


def test_a_run_that_kept_no_windows_is_a_submission_without_them(run: Path):
    for seed in (1, 2):
        path = run / f"seed{seed}" / "result.json"
        values = read_json(path)
        del values["scores_sha256"]
        path.write_text(json.dumps(values))
        change(path)
        (path.parent / "scores.npz").unlink()
    written = write_submission(run, **WHO)
    assert "scores.npz" not in (written / "README.md").read_text() and not (written / "scores.npz").exists()


@pytest.mark.parametrize(("begun", "is_kept"), [("2026-11-30T07:44:51+00:00", True), ("2026-13-45", False), (5, False)])
def test_the_date_is_the_day_on_which_the_last_seed_was_begun(run: Path, begun: object, is_kept: bool):
    change(run / "seed1" / "env.json", begun="2025-01-01")
    change(run / "seed2" / "env.json", begun=begun)
    date = read_json(write_submission(run, **WHO) / "submission.json")["date"]
    today = datetime.datetime.now(datetime.UTC).date()
    assert date == begun[:10] if is_kept else abs(datetime.date.fromisoformat(date) - today).days < 2


# ---------------------------------------------------------------------- the script that is shipped


@pytest.mark.slow  # a whole training in a process of its own
def test_the_shipped_script_alone_makes_the_shipped_artifact_byte_for_byte(honest: Path, written: Path, tmp_path: Path):
    """From inside a copy of the folder, in an environment that knows nothing of pgolf, with the shipped files alone."""
    folder = shutil.copytree(written, tmp_path / "folder")
    expected, log = (folder / "model.pgolf").read_bytes(), (folder / "train_seed1.log").read_text()
    (folder / "model.pgolf").unlink()
    data = honest.parents[2] / "datasets" / "toy-sp1024"
    clean = {"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", "DATA_PATH": str(data), "SEED": "1"}
    clean |= {"TOKENIZER_PATH": str(data / "tokenizer.model")}
    alone = "import runpy, sys; sys.modules['pgolf_core'] = None; runpy.run_path('train_gpt.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", alone], cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "seed1" / "final_model.pgolf").read_bytes() == expected
    result = read_json(folder / "seed1" / "result.json")
    numbers = read_json(folder / "submission.json")
    for mine, theirs in (("artifact", "model_int6_zstd"), ("code", "code"), ("total", "total")):
        assert result[f"{mine}_bytes"] == numbers[f"bytes_{theirs}"]
    own = numbers["seed_results"]["1"]
    assert (result["sliding_bpb"], result["roundtrip_bpb"]) == (own["val_bpb"], own["int6_zstd_val_bpb"])

    def ending(text: str) -> list[str]:
        lines = [line for line in text.splitlines() if line.startswith("final_") or line.endswith(" bytes")]
        return [re.sub(r"_time:\S+", "", line) for line in lines]

    assert len(ending(log)) == 7 and ending((folder / "seed1" / "train.log").read_text()) == ending(log)
