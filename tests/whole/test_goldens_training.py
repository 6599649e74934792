"""Parity with PR 1855's own code: its optimiser, its loader and its training, every number at its stated tolerance.

Shapes, schedules and cases come from the goldens alone, as in test_goldens.
"""

import dataclasses
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import load, section
from small import column, flat_bytes

from pgolf_core.lab.data.build import write_shard
from pgolf_core.network.model import GPT
from pgolf_core.recipes import recipe
from pgolf_core.text.batches import open_stream
from pgolf_core.text.packed import document_starts
from pgolf_core.text.shards import seq_len_at, step_batch
from pgolf_core.text.tokenizer import BOS
from pgolf_core.training import loop
from pgolf_core.training.loop import TrainData, Trainer
from pgolf_core.training.optim import muon_momentum, newton_schulz
from pgolf_core.training.polar import POLAR_EXPRESS


def test_polar_express_alone_is_the_records(goldens: Path) -> None:
    arrays, _ = load(goldens / "muon_pr1855.npz")
    steps = json.loads(str(arrays["hyper"]))["ns_steps"]
    cases = sorted({key.split("/")[0] for key in arrays if key.startswith("ns")})
    assert cases
    for case in cases:
        known = section(arrays, f"{case}/")
        for key, dtype, tolerance in (("fp32", torch.float32, 1e-5), ("bf16", torch.bfloat16, 0.15)):
            found = newton_schulz(known["in"], steps, dtype, POLAR_EXPRESS).float()
            assert (found - known[key]).norm() <= tolerance * known[key].norm(), (case, key)


def test_attention_begins_anew_where_the_records_does(goldens: Path) -> None:
    cases = json.loads((goldens / "misc_pr1855.json").read_text(encoding="utf-8"))["cu_seqlens"]
    assert cases
    for case in cases:
        inputs = torch.full((1, case["total"]), BOS + 1)
        inputs[0, case["bos"]] = BOS
        found = document_starts(inputs, case["limit"], case["padded_length"]).tolist()
        bounds = case["boundaries"]
        assert found == bounds + [case["total"]] * (case["padded_length"] - len(bounds))
        assert max(np.diff(found)) == case["max_seqlen"]


def test_the_packing_loader_gives_every_rank_the_records_rows(goldens: Path, tmp_path: Path) -> None:
    golden = json.loads((goldens / "misc_pr1855.json").read_text(encoding="utf-8"))["loader"]
    paths = [tmp_path / f"t_{number:06}.bin" for number in range(len(golden["shards"]))]
    for path, tokens in zip(paths, golden["shards"], strict=True):
        write_shard(path, np.array(tokens, np.uint16))
    assert {run["world"] for run in golden["runs"]} == {1, 2}
    for run in golden["runs"]:
        ranks, length, tokens = run["world"], run["seq_len"], run["global_tokens"]
        data = recipe.Data(
            order="packed", seq_len=length, batch_tokens=tokens, spans_per_step=ranks * run["grad_accum"]
        )
        stream = open_stream(data, paths, vocab_size=2**16, seed=0)
        rows: list[tuple[torch.Tensor, torch.Tensor]] = []
        while len(rows) < len(run["batches"]):
            rows += zip(*step_batch(stream, data, run["rank"], ranks, tokens // data.spans_per_step), strict=True)
        for (x, y), expected in zip(rows, run["batches"], strict=False):
            assert (x.tolist(), y.tolist()) == (expected["x"], expected["y"])
            bounds = document_starts(x[None], length).tolist()
            assert bounds[: len(expected["boundaries"])] == expected["boundaries"]
            assert set(bounds[len(expected["boundaries"]) :]) <= {len(x)}


def recipe_of(config: dict, dtype: str, **schedule: float) -> recipe.Recipe:
    """A training golden's config in this project's words; `dtype` is what Muon keeps and computes in."""
    length, spans = config["train_seq_len"], config["world_size"] * config["grad_accum_steps"]
    same = ("vocab_size", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_hidden", "rope_dims",
            "logit_softcap", "qk_gain_init", "num_loops", "loop_start", "loop_end", "gate_window", "xsa_last_n",
            "ln_scale", "norm_eps")  # fmt: skip
    assert config["record"] == "pr1855" and config["bos_id"] == BOS
    return recipe.from_dict({
        "model": {**{key: config[key] for key in same}, "parallel_start": config["parallel_start_layer"], "lanes": 2,
                  "attn_gate": "sparse", "attn_gate_scale": config["sparse_attn_gate_scale"], "smear": "window",
                  "skip_gates": True, "negative_slope": 0.5},
        "data": {"order": "packed", "seq_len": length, "batch_tokens": config["train_batch_tokens"],
                 "spans_per_step": spans,
                 "micro_batch_seqs": config["train_batch_tokens"] // spans // length},
        "optim": {**{key: config[key] for key in ("matrix_lr", "scalar_lr", "muon_wd", "adam_wd", "embed_wd",
                                                  "adam_eps", "grad_clip_norm", "muon_momentum",
                                                  "muon_momentum_warmup_steps")},
                  "embed_lr": config["tied_embed_lr"], "adam_betas": [config["beta1"], config["beta2"]],
                  "muon_momentum_start": config["muon_momentum_warmup_start"], "muon_row_normalise": True,
                  "muon_coefficients": "polar_express", "muon_dtype": dtype, "newton_schulz_dtype": dtype,
                  "clip_each_rank": True},
        "schedule": {"iterations": config["iterations"], "max_seconds": 0.0,
                     "warmdown_fraction": config["warmdown_frac"], "min_lr": config["min_lr"],
                     "loop_at": config["enable_looping_at"],
                     "warmup_steps": config["warmup_steps"], "autocast": "off", "compile": "off", **schedule},
        "average": {"kind": "ema", "ema_decay": config["ema_decay"]},
        "eval": {"seq_len": config["eval_seq_len"], "stride": config["eval_seq_len"]},
    })  # fmt: skip


def trainer_of(arrays: dict[str, np.ndarray], settings: recipe.Recipe, folder: Path) -> Trainer:
    """The real Trainer on the golden's tokens as shards, at the golden's initial weights."""
    folder.mkdir()
    paths = [folder / f"{name}.bin" for name in ("shard0", "shard1", "val_tokens")]
    for path in paths:
        write_shard(path, arrays[path.stem])
    vocab = settings.model.vocab_size
    data = TrainData(paths[:2], paths[2:], flat_bytes(vocab), vocab, sha256="golden")
    trainer = Trainer(settings, 0, data, folder / "run")
    trainer.model.load_state_dict(section(arrays, "init/"), strict=True)
    return trainer


@torch.no_grad()
def flat_score(model: GPT, arrays: dict[str, np.ndarray], length: int, row_tokens: int) -> tuple[float, float]:
    """The record's diagnostic evaluation: packed rows, whole ones alone; nats per token, bits per byte."""
    tokens = torch.from_numpy(arrays["val_tokens"].astype(np.int64))
    nats, count, num_bytes = 0.0, 0, 0
    for start in range(0, (len(tokens) - 1) // row_tokens * row_tokens, row_tokens):
        row = tokens[None, start : start + row_tokens + 1]
        starts = document_starts(row[:, :-1], length)
        nats += float(model.token_losses(row[:, :-1], row[:, 1:], 0, starts, length).double().sum())
        count += row_tokens
        num_bytes += int(arrays["val_bytes"][start + 1 : start + row_tokens + 1].sum())
    return nats / count, nats / math.log(2) / num_bytes


@pytest.mark.parametrize(
    ("suffix", "dtype", "losses", "grad_norms", "norms"),
    [("_fp32ns", "float32", 2e-4, 1e-3, 1e-3), ("", "bfloat16", 5e-3, 2e-2, 5e-2)],
)
def test_training_on_packed_documents_follows_the_record(
    goldens: Path, tmp_path: Path, suffix: str, dtype: str, losses: float, grad_norms: float, norms: float
) -> None:
    arrays, config = load(goldens / "train_pr1855.npz")
    trainer = trainer_of(arrays, recipe_of(config, dtype), tmp_path / "whole")
    trainer.run()
    told = functools.partial(column, tmp_path / "whole" / "run")
    np.testing.assert_allclose(told("lr_multiplier"), config["lr_scale"], atol=1e-12)
    np.testing.assert_allclose(told("loss"), arrays[f"losses{suffix}"], atol=losses, rtol=0)
    np.testing.assert_allclose(told("grad_norm"), arrays[f"grad_norms{suffix}"], rtol=grad_norms)
    for kind, weights in (("final", trainer.named), ("ema", trainer.averaged)):
        expected = dict(zip(json.loads(str(arrays["names"])), arrays[f"{kind}_norm{suffix}"], strict=True))
        assert weights.keys() == expected.keys()
        for name, weight in weights.items():
            assert abs(float(weight.detach().norm()) - expected[name]) <= norms * expected[name], (kind, name)
    row_tokens = config["val_batch_tokens"] // trainer.recipe.data.spans_per_step
    found = flat_score(trainer.model.eval(), arrays, config["eval_seq_len"], row_tokens)
    np.testing.assert_allclose(found, arrays[f"val{suffix}"], atol=losses, rtol=0)


@pytest.mark.parametrize(("suffix", "dtype", "tolerance"), [("_fp32ns", "float32", 1e-3), ("", "bfloat16", 2e-2)])
def test_the_steps_that_the_record_rolls_back_are_ours_on_its_batches(
    goldens: Path, tmp_path: Path, monkeypatch, suffix: str, dtype: str, tolerance: float
) -> None:
    """So many steps at full rate with the loop off, then on, on real batches; momentum begins anew with the loop.

    Their first row is the second one: the first has gone into compiling.
    """
    arrays, config = load(goldens / "train_pr1855.npz")
    steps, optimizer_step = config["warmup_steps"], muon_momentum
    monkeypatch.setattr(loop, "muon_momentum", lambda step, optim: optimizer_step(step % steps, optim))
    settings = recipe_of(config, dtype, iterations=2 * steps, min_lr=1.0, loop_at=0.5, warmup_steps=0)
    trainer = trainer_of(arrays, settings, tmp_path / "warm")
    first = dataclasses.replace(settings.data, spans_per_step=1, batch_tokens=seq_len_at(settings.data, 0.0))
    step_batch(trainer.stream, first, seq_len=first.batch_tokens)
    trainer.run()
    found = column(tmp_path / "warm" / "run", "grad_norm")
    np.testing.assert_allclose(found, arrays[f"warmup_grad_norms{suffix}"], rtol=tolerance)
