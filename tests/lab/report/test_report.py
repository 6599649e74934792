"""The report: its numbers are result.json's, nothing missing is papered over, nothing hostile gets through."""

import dataclasses
import json
import math
import re
import statistics
from html.parser import HTMLParser

import pandas as pd
import pytest

from pgolf_core.base.files import UserError
from pgolf_core.lab.report import report
from pgolf_core.lab.report.figures import tensor_table
from pgolf_core.lab.report.report import seeds_table_text, write_report
from pgolf_core.recipes.recipe import Recipe, to_dict

SEEDS = [1337, 1338, 1339]
HOSTILE = (
    '<script src="http://evil.example/x.js"></script><img src=x onerror=alert(1)> | `code` ![p](http://e.example/p.png)'
)
VAL_TARGETS, VAL_BYTES = 292_095, 854_885


def seed_result(seed):
    """A result.json whose numbers agree with each other and differ by seed."""
    shift = (seed - 1337) * 0.0031
    scores = {"raw": 1.842, "averaged": 1.797, "roundtrip": 1.801, "sliding": 1.763}
    result = {"recipe": "local-smoke", "track": "local_10min_1mb", "seed": seed}
    for name, bpb in scores.items():
        result[f"{name}_bpb"] = bpb + shift
        result[f"{name}_loss"] = (bpb + shift) * math.log(2) * VAL_BYTES / VAL_TARGETS
    artifact = 620_000 + seed
    return result | {
        "artifact_bytes": artifact, "code_bytes": 170_000, "total_bytes": artifact + 170_000, "cap_bytes": 1_000_000,
        "parameters": 1_812_480, "steps": 400 + seed % 10, "tokens": (400 + seed % 10) * 32_768,
        "seconds": {"train": 100.0 + shift, "warmup": 20.0, "scoring": 30.5}, "val_targets": VAL_TARGETS,
        "val_bytes": VAL_BYTES, "sliding_stride": 64, "recipe_sha256": "a" * 64, "data_sha256": "b" * 64,
        "core_sha256": "c" * 64,
    }  # fmt: skip


def make_run(folder):
    """A complete run folder of three seeds."""
    recipe = {
        "name": "local-smoke",
        "fingerprint": "a" * 64,
        "model": {"num_layers": 6},
        "schedule": {"max_seconds": 100.0},
    }
    data = {
        "dataset": "sotu-sp1024",
        "citation": "The addresses, <collected>.",
        "lossless": True,
        "train_documents": 230,
    }
    data |= {"train_bytes": 11_330_866, "train_tokens": 3_871_003, "val_documents": 19, "val_bytes": VAL_BYTES}
    files = {"recipe.json": recipe, "data.json": data | {"val_tokens": 292_114}}
    environment = {
        "commit": "0123abcd",
        "versions": {"torch": "2.13.0"},
        "hostname": "secret",
        "cwd": "/home/me/secret",
    }
    tensor = {"name": "w", "grid": "int6_row", "shape": [100, 80], "elements": 8000, "raw_bytes": 8000}
    tensor |= {"scales_raw_bytes": 200, "compressed_bytes": 4100}
    for seed in SEEDS:
        result = seed_result(seed)
        ledger = {"weights_bytes": 600_000 + seed, "scales_bytes": 15_000, "header_bytes": 5_000, "code_bytes": 170_000}
        ledger |= {"file_bytes": result["artifact_bytes"], "total_bytes": result["total_bytes"]}
        ledger |= {"fp16_bytes": 0}
        ledger["tensors"] = [tensor | {"entropy_bytes": 4000.0}]
        files |= {
            f"seed{seed}/result.json": result,
            f"seed{seed}/ledger.json": ledger,
            f"seed{seed}/env.json": environment,
        }
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    for seed in SEEDS:
        lines = [{"kind": kind, "step": s, "loss": 7 - s / 20} for s in range(0, 80, 10) for kind in ("train", "val")]
        (folder / f"seed{seed}" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / f"seed{seed}" / "model.pgolf").write_bytes(b"artifact")
    return folder


@pytest.fixture
def run(tmp_path):
    """A run folder to change."""
    return make_run(tmp_path / "local-smoke")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The paths of one untouched run's report, for tests that only read."""
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "local-smoke"), SEEDS, sample())


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def sample(**values):
    base = {"document": "Lincoln-1862", "opening": "Fellow-Citizens:\n\nSince", "continuation": " the last session"}
    return base | {"seed": 7, "temperature": 0.8, "artifact": "/home/me/runs/seed1337/model.pgolf"} | values


class Loads(HTMLParser):
    """Gathers whatever a browser would fetch, tags and visible text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "srcset", "href", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


def test_every_number_of_the_table_is_result_jsons(written):
    page, note = Loads(written.html.read_text()).text, written.markdown.read_text()
    for seed in SEEDS:
        result = seed_result(seed)
        cells = [f"{result['steps']}"]
        cells += [f"{result[key]:.4f}" for key in ("raw_bpb", "averaged_bpb", "roundtrip_bpb", "sliding_bpb")]
        cells += [f"{result[key]:,}" for key in ("artifact_bytes", "code_bytes", "total_bytes")]
        cells += [f"{result['seconds']['train']:.1f}", f"{sum(result['seconds'].values()):.1f}"]
        assert f"| {seed} | {' | '.join(cells)} |" in note
        assert f"{seed}{''.join(cells)}" in page


def test_summary_holds_mean_std_n_and_every_seed(written):
    summary = json.loads(written.summary.read_text())
    scores = [1.763, 1.7661, 1.7692]
    assert summary["n"] == 3 and summary["seeds"] == SEEDS and summary["recipe"] == "local-smoke"
    assert summary["sliding_bpb"]["mean"] == pytest.approx(1.7661) and summary["sliding_bpb"]["n"] == 3
    assert summary["sliding_bpb"]["std"] == pytest.approx(0.0031)  # equally spaced by 0.0031: std is the spacing
    assert list(summary["sliding_bpb"]["seeds"].values()) == pytest.approx(scores)
    assert summary["steps"]["std"] == pytest.approx(statistics.stdev([407, 408, 409]))
    assert summary["seconds"]["warmup"]["mean"] == 20.0 and summary["whole_seconds"]["mean"] == pytest.approx(150.5031)
    assert set(seed_result(1337)) - {"seed"} <= set(summary)


def test_the_headline_is_the_mean_and_never_the_best_seed(written):
    page = Loads(written.html.read_text()).text
    assert "1.7661 ± 0.0031 bits per byte" in page and "95% t interval" in page


def test_one_seed_is_reported_without_spread(run):
    paths = write_report(run, [1338])
    page = Loads(paths.html.read_text()).text
    assert "1.7661 bits per byte" in page and "±" not in page and "nothing is known of the spread" in page
    assert json.loads(paths.summary.read_text())["sliding_bpb"]["std"] is None


def test_the_terminal_table_is_aligned_and_ends_with_mean_std_and_half_the_interval(written):
    lines = seeds_table_text(json.loads(written.summary.read_text())).splitlines()
    assert len({len(line) for line in lines[1:]}) == 1 and len(lines[0]) <= 100
    assert lines[0].split()[:3] == ["seed", "steps", "raw"] and lines[3].split()[0] == "1337"
    assert lines[-3].split()[:2] == ["mean", "408.0"] and lines[-2].split()[:2] == ["std", "1.0"]
    assert lines[-1].split()[:3] == ["±", "95%", "2.5"]  # t(0.975, 2) = 4.303, times 1 / sqrt(3)


@pytest.mark.parametrize("name", ["result.json", "ledger.json", "metrics.jsonl", "env.json"])
def test_a_missing_file_is_refused_by_name_with_the_command_that_makes_it(run, name):
    (run / "seed1339" / name).unlink()
    with pytest.raises(UserError, match=rf"seed1339/{name} does not exist; run `pgolf record local-smoke --seeds 1339"):
        write_report(run, SEEDS)
    assert not (run / "summary.json").exists() and not (run / "report.html").exists()


def test_the_ledger_of_seconds_names_every_part_and_the_seeds_that_were_resumed(tmp_path):
    folder = make_run(tmp_path)
    parts = {"data": 0.5, "train": 100.0, "averaging": 2.0, "lost": 7.25, "notebooks": 12.0}
    for seed in (1337, 1338, 1339):
        path = folder / f"seed{seed}" / "result.json"
        more = {
            "seconds": {**parts, "total": sum(parts.values())},
            "resumed_at_steps": [40, 90] if seed == 1338 else [],
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    write_report(folder, [1337, 1338, 1339])
    for text in ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html")):
        for words in ("lost to kills and failures", "train: steps, on the clock", "7.2", "121.8"):
            assert words in text, words
        assert "seed 1338 went on at step 40, 90" in text and "seed 1337 went on" not in text


@pytest.mark.parametrize("key", ["sliding_bpb", "total_bytes", "seconds", "core_sha256", "val_bytes"])
def test_a_missing_number_is_an_error_and_not_zero(run, key):
    path = run / "seed1338" / "result.json"
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"'{key}'"):
        write_report(run, SEEDS)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"sliding_bpb": 1.2}, "sliding_bpb does not follow from sliding_loss"),
        ({"total_bytes": 1}, "total_bytes is not artifact_bytes"),
        ({"artifact_bytes": 5, "total_bytes": 170_005}, "not ledger.json's file_bytes"),
        ({"seconds": {"train": 9.0, "lost": 1.0, "total": 11.0}}, "parts of seconds do not add up to its total"),
        ({"seed": 4}, "seed 4 is not 1338"),
        ({"steps": None}, "no number 'steps'"),
        ({"data_sha256": "d" * 64}, "seeds 1337 and 1338 differ in data_sha256"),
        ({"script_sha256": "d" * 64}, "seeds 1337 and 1338 differ in script_sha256"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(run, values, complaint):
    change(run / "seed1338" / "result.json", **values)
    with pytest.raises(UserError, match=complaint):
        write_report(run, SEEDS)


def test_other_bad_inputs_name_what_is_wrong(run):
    for seeds in ([], [1337, 1337]):
        with pytest.raises(UserError, match="none twice"):
            write_report(run, seeds)
    with pytest.raises(UserError, match="sample lacks temperature"):
        write_report(run, SEEDS, {key: "" for key in sample() if key != "temperature"})
    with open(run / "seed1337" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 17: not a metrics record"):
        write_report(run, SEEDS)
    (run / "data.json").unlink()
    with pytest.raises(UserError, match="01_data_and_metric"):
        write_report(run, SEEDS)


def test_html_is_one_file_that_loads_nothing(written):
    text = written.html.read_text()
    page = Loads(text)
    assert page.tags.count("img") == 5 and all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert not {"link", "script", "iframe", "object"} & set(page.tags)
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_hostile_text_from_model_and_files_is_shown_and_not_obeyed(run):
    change(run / "data.json", citation=HOSTILE, dataset=HOSTILE)
    change(run / "seed1337" / "env.json", device=HOSTILE)
    paths = write_report(run, SEEDS, sample(continuation=HOSTILE + "\n# heading\x00\ud800", document=HOSTILE))
    page = Loads(paths.html.read_text())
    assert "script" not in page.tags and page.tags.count("img") == 5 and page.text.count(HOSTILE) >= 4
    assert "# heading\ufffd\ufffd" in page.text
    note = paths.markdown.read_text()
    assert "<script" not in note and "<img" not in note and "![p]" not in note and "\n# heading" not in note
    rows = [line for line in note.splitlines() if line.startswith("| device")]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 3


def test_the_continuation_is_marked_as_sampled_and_apart_from_the_opening(written):
    text = written.html.read_text()
    opening, continuation = text.index("Fellow-Citizens"), text.index(" the last session")
    assert opening < text.index("sampled by the model, not a quotation") < continuation
    page = Loads(text).text
    assert "seed1337/model.pgolf, sampling seed 7, temperature 0.8" in page and "Lincoln-1862" in page


def test_partial_scores_and_a_larger_stride_are_said(written, run):
    plain = written.markdown.read_text()
    assert "are scored on the first" not in plain and "uses a stride of" not in plain and "by packing" in plain
    for seed in SEEDS:
        change(run / f"seed{seed}" / "result.json", raw_targets=65_536, sliding_stride=256)
    note = write_report(run, SEEDS).markdown.read_text()
    assert "first 65,536 of 292,095 validation targets (22.4%)" in note and "by packing" not in note
    assert "uses a stride of 256 tokens where the track's is 64" in note
    assert "No continuation was sampled" in note


def test_the_command_to_reproduce_names_what_differs_from_the_recipe_file(tmp_path, monkeypatch):
    base = Recipe(name="local")
    changed = dataclasses.replace(base, average=dataclasses.replace(base.average, kind="swa"))
    monkeypatch.setattr(report, "load_recipe", lambda name: base)
    folder = tmp_path / f"local+{changed.fingerprint[:8]}"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(to_dict(changed) | {"fingerprint": changed.fingerprint}))
    words = """pgolf record local --seeds 1,2 --set 'average.kind="swa"'"""
    assert report.command_of(folder, [1, 2]) == words
    assert report.command_of(folder.rename(tmp_path / "mine"), [1, 2]) == f"{words} --name mine"


def test_no_path_or_name_of_the_machine_is_published(written):
    for path in (written.html, written.markdown, written.summary):
        text = path.read_text()
        assert "secret" not in text and "/home/" not in text and str(written.html.parent) not in text
    assert "0123abcd" in written.html.read_text() and "versions.torch" in written.html.read_text()


def test_a_tokenizer_that_normalises_is_named_among_the_limits(written, run):
    assert "normalised text" not in written.markdown.read_text()
    change(run / "data.json", lossless=False)
    assert "Bytes of the normalised text" in write_report(run, [1337]).markdown.read_text()


def test_figures_lie_beside_the_report_with_their_numbers(written):
    for figure in written.figures:
        assert figure.stat().st_size > 1000 and f"](figures/{figure.name})" in written.markdown.read_text()
        assert not pd.read_csv(figure.with_suffix(".csv")).empty
    ledger = pd.read_csv(written.html.parent / "figures" / "ledger.csv", index_col="seed")
    assert ledger.loc[1338, ["weights", "scales", "header", "code"]].sum() == seed_result(1338)["total_bytes"]
    seeds = pd.read_csv(written.html.parent / "figures" / "seeds.csv", index_col="seed")
    assert seeds.loc[1339, "sliding"] == pytest.approx(seed_result(1339)["sliding_bpb"])


# ---------------------------------------------------------------------- figures from the notebooks, and the records

POSITION = "score,middle,targets,bpb,share\nround-trip,1.0,580,2.25,0.1\nsliding,1.0,9,2.2,0.1\n"
PACKINGS = 'packing,file_bytes,bits,bpb_lost\n"float32, not packed",,32.0,0.0\nint6_row,759413,5.6,'


def leave_tables(run):
    for seed in SEEDS:
        folder = run / f"seed{seed}" / "figures"
        folder.mkdir()
        (folder / "06-position.csv").write_text(POSITION)
        (folder / "05-rate.csv").write_text(f"{PACKINGS}{seed / 1e6}\n")


def test_tables_that_the_notebooks_left_become_figures_with_every_seeds_numbers(run):
    leave_tables(run)
    paths = write_report(run, SEEDS)
    page, note = paths.html.read_text(), paths.markdown.read_text()
    assert Loads(page).tags.count("img") == 7 and "Loss by position" in page and "## Loss by position" in note
    position = pd.read_csv(run / "figures" / "position.csv")
    assert position["seed"].tolist() == [seed for seed in SEEDS for _ in range(2)]
    assert position["bpb"].tolist() == 3 * [2.25, 2.2]
    packings = pd.read_csv(run / "figures" / "packings.csv")
    assert packings["bpb_lost"].tolist() == [seed / 1e6 for seed in SEEDS], "what is not packed has no bytes to lie at"


def test_a_damaged_table_is_named_with_its_remedy(run):
    leave_tables(run)
    path = run / "seed1338" / "figures" / "06-position.csv"
    path.write_text("score,middle\nround-trip,many\n")
    with pytest.raises(
        UserError, match=r"seed1338/figures/06-position\.csv is not the table .*; run it again"
    ) as caught:
        write_report(run, SEEDS)
    assert "\n" not in str(caught.value)


def test_stored_bits_of_the_tensors_add_up_to_weights_and_scales():
    rows = [
        {"name": "tok_emb.weight", "grid": "fp16", "shape": [8, 4], "raw_bytes": 64, "scales_raw_bytes": 0,
         "compressed_bytes": None},
        {"name": "blocks.3.mlp.fc.weight", "grid": "int6_row", "shape": [16, 4], "raw_bytes": 64,
         "scales_raw_bytes": 32, "compressed_bytes": 40},
        {"name": "blocks.0.attn_scale", "grid": "fp16", "shape": [16], "raw_bytes": 32, "scales_raw_bytes": 0,
         "compressed_bytes": None},
    ]  # fmt: skip
    tensors = [row | {"elements": math.prod(row["shape"]), "entropy_bytes": 30} for row in rows]
    table = tensor_table({"tensors": tensors, "fp16_bytes": 90, "scales_bytes": 20}).set_index("name")
    assert table["stored_bytes"].tolist() == [60, 60, 30], "fp16 tensors share their stream by size"
    assert table["stored_bits"].tolist() == [15, 7.5, 15]
    assert table["kind"].tolist() == ["tok_emb", "mlp.fc", "vectors and scalars"]
    assert table["layer"].fillna(-1).tolist() == [-1, 3, 0]


def test_on_another_text_the_records_stand_beside_the_run_without_any_difference(written):
    page, note = Loads(written.html.read_text()).text, written.markdown.read_text()
    assert "The scores do not compare" in page and "854,885 bytes of dataset" in page
    assert "| pr315 (merged) | sliding | 3 | 1.1250 | 0.0002 | 7,058 | 15,639,340 |" in note
    assert "rule p" not in note
    table = pd.read_csv(written.html.parent / "figures" / "published.csv").set_index("run")
    assert table["difference"].isna().all() and len(table) == 6
    own = table.loc["this run"]
    assert own["by_sliding"] == pytest.approx(1.763 - 1.801) and own["raw_to_packed"] == pytest.approx(1.801 - 1.842)
    # PR 315: 1.12484502, 1.12498291, 1.12526734 sliding against 1.14845684, 1.14862389, 1.14869399 side by side
    assert table.loc["pr315 (merged)", "by_sliding"] == pytest.approx(-0.02355982, abs=1e-8)
    assert table.loc["pr315 (merged)", "bits_per_weight"] == pytest.approx(8 * 15_525_821 / 26_829_913)


def test_on_the_records_text_differences_and_the_rule_are_given_for_the_reports_seeds_alone(run):
    targets, size = 62_021_632, 151_080_363
    for seed in SEEDS:
        values = {"track": "10min_16mb", "val_targets": targets, "val_bytes": size, "cap_bytes": 16_000_000}
        for score in ("raw", "averaged", "roundtrip", "sliding"):
            bpb = 1.10 + (seed - 1337) / 1000
            values |= {f"{score}_bpb": bpb, f"{score}_loss": bpb * math.log(2) * size / targets}
        change(run / f"seed{seed}" / "result.json", **values)
    note = write_report(run, SEEDS[:2]).markdown.read_text()
    table = pd.read_csv(run / "figures" / "published.csv").set_index("run")
    # PR 315's mean is 1.12503; one seed is shared, so Welch
    assert table.loc["pr315 (merged)", "difference"] == pytest.approx(1.1005 - 1.12503, abs=1e-4)
    assert "rule p" in note and "is met against" in note and "do not compare" not in note
    points = pd.read_csv(run / "figures" / "bytes.csv")
    assert set(points["run"]) == {"this run", "pr194", "pr315", "pr332", "pr531"} and len(points) == 2 + 3 + 3 + 3 + 2
