"""The report: its numbers are result.json's, nothing missing is papered over, nothing hostile gets through."""

import json
import re
from html.parser import HTMLParser

import pytest
from refused import refused
from report_run import RUN_SEEDS
from run_folder import as_recipe, averaging_of, change

from pgolf_core.lab.report import report
from pgolf_core.lab.report.report import write_report
from pgolf_core.result import Result

HOSTILE = (
    '<script src="http://evil.example/x.js"></script><img src=x onerror=alert(1)> | `code` ![p](http://e.example/p.png)'
)


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


def test_every_number_of_the_table_is_result_jsons_and_the_headline_is_the_mean(written):
    page, note = Loads(written.html.read_text()).text, written.markdown.read_text()
    assert "1.7661 ± 0.0031 bits per byte" in page and "95% t interval" in page
    for seed in RUN_SEEDS:
        result = Result.read(written.html.parent / f"seed{seed}" / "result.json")
        scores = (result.raw_bpb, result.averaged_bpb, result.roundtrip_bpb, result.sliding_bpb)
        cells = [f"{seed}", f"{result.steps}", *(f"{value:.4f}" for value in scores)]
        cells += [f"{value:,}" for value in (result.artifact_bytes, result.code_bytes, result.total_bytes)]
        cells += [f"{result.seconds['train']:.1f}", f"{sum(result.seconds.values()):.1f}"]
        assert f"| {' | '.join(cells)} |" in note and " ".join(cells) in " ".join(page.split())


def report_of_adapting(run, adapt: dict[str, str], seconds: float) -> str:
    """The report of the run, had its seeds adapted and gained 0.0125 bpb."""
    as_recipe(run, ["eval.stride=64", *(f"adapt.{key}={value}" for key, value in adapt.items())])
    for seed in RUN_SEEDS:
        path = run / f"seed{seed}" / "result.json"
        before = Result.read(path)
        bpb = before.sliding_bpb - 0.0125
        scores = {"adapted_bpb": bpb, "adapted_loss": before.sliding_loss * bpb / before.sliding_bpb}
        change(path, **scores, adapt_sha256="0" * 64, seconds=before.seconds | {"adapting": seconds})
    return write_report(run, RUN_SEEDS).markdown.read_text()


@pytest.mark.parametrize(("spent", "is_over"), [(60.0, False), (580.0, True)])
def test_frozen_and_adapted_scores_stand_side_by_side(run, spent: float, is_over: bool):
    note = report_of_adapting(run, {"kind": "sgd", "mix": "off"}, spent)
    for words in (
        " sliding (frozen) bpb | adapted bpb |", "(n = 3) | bits per byte, frozen | bytes", "by adapting. Lines",
        "\N{MINUS SIGN}0.0125 bpb on average", "each is scored whole before the weights are trained on it",
        "nothing is learned from what has no score yet", "Recipe local-smoke, changed as under Reproduce, on track ",
    ):  # fmt: skip
        assert words in note, words
    assert "n-grams" not in note
    assert f"took {30.5 + spent} s at most, of 600 s" in note and ("Over the cap on evaluation" in note) is is_over


@pytest.mark.parametrize(("kind", "learns"), [("off", False), ("sgd", True)])
def test_a_mixture_is_told_as_one(run, kind: str, learns: bool):
    note = report_of_adapting(run, {"kind": kind, "mix": "ngram"}, 1.0)
    assert "n-grams that were counted in the targets before it" in note and "the mixed nats of every window" in note
    assert ("before the weights are trained on it" in note) is ("under which state of the weights" in note) is learns
    assert "Each score was mixed with that of n-grams of the text before its target. Frozen" in note


def test_one_seed_is_reported_without_spread(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(report, "command_of", lambda folder, seeds: "pgolf record local-smoke --seeds 1338")
    paths = write_report(run, [1338])
    page = Loads(paths.html.read_text()).text
    assert "1.7661 bits per byte" in page and "±" not in page and "nothing is known of the spread" in page
    assert "No continuation was sampled" in page and "Recipe local-smoke on track" in page
    assert json.loads(paths.summary.read_text())["sliding_bpb"]["std"] is None


def test_the_ledger_of_seconds_names_every_part_and_the_seeds_that_were_resumed(run):
    parts = {"data": 0.5, "train": 100.0, "averaging": 2.0, "lost": 7.25, "notebooks": 12.0}
    for seed in RUN_SEEDS:
        steps = [40, 90] if seed == 1338 else []
        seconds = {**parts, "total": sum(parts.values())}
        change(run / f"seed{seed}" / "result.json", seconds=seconds, resumed_at_steps=steps)
    paths = write_report(run, RUN_SEEDS)
    for text in (paths.markdown.read_text(), paths.html.read_text()):
        for words in ("lost to kills and failures", "train: steps, on the clock", "7.2", "121.8"):
            assert words in text, words
        assert "Seed 1338 went on at step 40, 90" in text and "Seed 1337 went on" not in text


@pytest.mark.parametrize("by", ["clock", "iterations"])
def test_a_clock_that_ended_no_seed_is_no_limit_of_the_run(run, by: str):
    for seed in RUN_SEEDS:
        change(run / f"seed{seed}" / "result.json", stopped_by=by)
    note = write_report(run, RUN_SEEDS).markdown.read_text()
    assert ("A clock for a cap" in note, "ends after a fixed number of steps" in note) == (by == "clock", by != "clock")


def test_bad_inputs_name_what_is_wrong_and_nothing_is_written(run, sample):
    for seeds in ([], [1337, 1337]):
        with refused("none twice"):
            write_report(run, seeds)
    del sample["temperature"]
    with refused("sample lacks temperature"):
        write_report(run, RUN_SEEDS, sample)
    change(run / "seed1338" / "result.json", data_sha256="e" * 64)
    with refused("differ in data_sha256"):
        write_report(run, RUN_SEEDS)
    change(run / "data.json", val_documents="many")
    with refused("no number 'val_documents'; run the notebook 01_data_and_metric"):
        write_report(run, RUN_SEEDS)
    (run / "data.json").unlink()
    with refused("no 'dataset'; run the notebook 01_data_and_metric"):
        write_report(run, RUN_SEEDS)
    assert not (run / "summary.json").exists() and not (run / "report.html").exists()


def test_html_is_one_file_that_loads_nothing(written):
    text = written.html.read_text()
    page = Loads(text)
    assert page.tags.count("img") == 5 and all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert not {"link", "script", "iframe", "object", "a"} & set(page.tags)
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_hostile_text_from_model_and_files_is_shown_and_not_obeyed(run, sample):
    change(run / "data.json", citation=HOSTILE, dataset=HOSTILE)
    change(run / "seed1337" / "env.json", device=HOSTILE)
    sample |= {"continuation": HOSTILE + "\n# heading\x00\ud800", "document": HOSTILE}
    paths = write_report(run, RUN_SEEDS, sample)
    page = Loads(paths.html.read_text())
    assert "script" not in page.tags and page.tags.count("img") == 5 and page.text.count(HOSTILE) >= 4
    assert "# heading\ufffd\ufffd" in page.text
    assert all(one.startswith("data:image/png;base64,") for one in page.loads)
    note = paths.markdown.read_text()
    assert "<script" not in note and "<img" not in note and "![p]" not in note and "\n# heading" not in note
    rows = [line for line in note.splitlines() if line.startswith("| device")]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 3


def test_the_continuation_is_marked_as_sampled_and_apart_from_the_opening(written):
    text = written.html.read_text()
    opening, continuation = text.index("Fellow-Citizens"), text.index("the last session")
    assert opening < text.index("sampled by the model, not a quotation") < continuation
    page = Loads(text).text
    assert "seed1337/model.pgolf, sampling seed 7, temperature 0.8" in page and "Lincoln-1862" in page


def test_partial_scores_a_larger_stride_and_a_normalising_tokenizer_are_said(written, run):
    plain = written.markdown.read_text()
    assert "are scored on the first" not in plain and "uses a stride of" not in plain and "by packing" in plain
    assert "normalised text" not in plain and "not to be counted" not in plain
    change(run / "seed1338" / "result.json", over_cap_seconds=2.8)
    as_recipe(run, ["eval.stride=256"])
    for seed in RUN_SEEDS:
        path = run / f"seed{seed}" / "result.json"
        change(path, raw_targets=65_536)
        change(path.with_name("averaging.json"), **averaging_of(Result.read(path)))
    change(run / "data.json", lossless=False, val_documents=2096)
    note = write_report(run, RUN_SEEDS).markdown.read_text()
    assert "| validation | 2,096 | 854,885 | 292,096 | 2.948 |" in note, "a document's first token stands for no text"
    assert "first 65,536 of 292,095 validation targets (22.4%)" in note and "by packing" not in note
    assert "uses a stride of 256 tokens where the track's is 64" in note and "Bytes of the normalised text" in note
    assert "**Over the recipe's cap on training, and so not to be counted: seed 1338 by 2.80 s.**" in note


def test_no_path_or_name_of_the_machine_is_published(written):
    for path in (written.html, written.markdown, written.summary):
        text = path.read_text()
        assert "secret" not in text and "/home/" not in text and str(written.html.parent) not in text
    assert "0123abcd" in written.html.read_text() and "versions.torch" in written.html.read_text()
