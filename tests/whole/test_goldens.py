"""Parity with the published records' own code: every number in the goldens folder, at its stated tolerance.

Shapes, schedules and cases come from the files alone, so that any other folder of this form can be tested.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import load, section
from record_counts import RECORDS
from small import column, flat_bytes
from tiny_artifact import contents

from pgolf_core.adapting import lora
from pgolf_core.adapting.documents import DocumentScore, groups_in, plan_documents
from pgolf_core.adapting.lora import DocumentLoRA
from pgolf_core.adapting.plan import ScoreEvent, plan_chunks
from pgolf_core.adapting.sgd import ChunkSGD
from pgolf_core.adapting.tilt import hints_of, tilted
from pgolf_core.base.bits import allocate_bits
from pgolf_core.base.grouping import similarity_order
from pgolf_core.base.names import TRAIN_LOG
from pgolf_core.base.parallel import ALONE
from pgolf_core.base.squeeze import shuffled, squeeze, unshuffled, unsqueeze
from pgolf_core.lab.data.build import write_shard
from pgolf_core.network.extras import coded_factors, leading_pairs
from pgolf_core.network.grid import GRIDS, Grid, dequantise, fake_quantise, quantise_tensor
from pgolf_core.network.model import GPT, layer_order
from pgolf_core.network.score import score
from pgolf_core.packing import pack as pack_module
from pgolf_core.packing import unpack as unpack_module
from pgolf_core.packing.correction import Hessians, feedback_of, gather, quantise_in_turn
from pgolf_core.packing.pack import pack
from pgolf_core.packing.unpack import unpack
from pgolf_core.recipes import recipe
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.rules import LORA_TARGETS
from pgolf_core.text.caseops import CaseTokenizer, from_cases, to_cases
from pgolf_core.text.ranked import RankedStream
from pgolf_core.text.tokenizer import TokenBytes, Tokenizer
from pgolf_core.training.loop import TrainData, Trainer
from pgolf_core.training.optim import Muon
from pgolf_core.training.polar import POLAR_EXPRESS


def model_config(config: dict) -> recipe.Model:
    """A golden's config in this project's words; `record` decides smear order and rotary reference (papers/records)."""
    record, layers = config["record"], config["num_layers"]
    same = ("vocab_size", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_hidden", "rope_base",
            "logit_softcap", "qk_gain_init")  # fmt: skip
    new = ("rope_reference_tokens", "negative_slope", "num_loops", "loop_start", "loop_end", "gate_window")
    if record == "pr1855":
        return recipe.from_dict({"model": {
            **{key: config[key] for key in (*same, *new, "rope_dims", "xsa_last_n", "ln_scale") if key in config},
            "negative_slope": 0.5, "smear": "window", "skip_gates": config.get("skip_gates_enabled", True), "lanes": 2,
            "parallel_start": config["parallel_start_layer"], "attn_gate": "sparse",
            "attn_gate_scale": config["sparse_attn_gate_scale"],
        }}).model  # fmt: skip
    return recipe.from_dict({"model": {
        **{key: config[key] for key in same},
        "rope_dims": config.get("rope_dims", 0) or config["model_dim"] // config["num_heads"],
        "rope_reference_tokens": 1024 if record in ("pr315", "pr332") else 0,
        "smear": "off" if not config["smear_gate"] else "before" if record == "pr194" else "after",
        "bigram_rows": config.get("bigram_vocab_size", 0),
        "bigram_dim": config.get("bigram_dim", 128),
        "ln_scale": config.get("ln_scale", False),
        "xsa_last_n": min(config.get("xsa_last_n", 0), layers),
        "ve_dim": config.get("ve_dim", 0),
        "ve_layers": [int(layer) for layer in config.get("ve_layers", "").split(",") if layer],
        "skip_gates": config.get("skip_gates_enabled", False),
        "parallel_start": config.get("parallel_residual_start", -1),
        **{key: config[key] for key in new if key in config},
    }}).model  # fmt: skip


def golden_model(arrays: dict[str, np.ndarray], config: dict, prefix: str = "param/") -> GPT:
    model = GPT(model_config(config))
    model.load_state_dict(section(arrays, prefix), strict=True)
    return model


def modes(model: GPT, config: dict) -> Iterator[str]:
    """What the names of a golden's arrays begin with, the network set to it: loop off, and on where there is one."""
    model.looping = False
    yield ""
    if config.get("num_loops"):
        model.looping = True
        assert layer_order(model.config) == (config["encoder_indices"], config["decoder_indices"])
        yield "loop_"


@pytest.mark.parametrize("record", [*RECORDS, "pr1855"])
def test_logits_loss_and_gradients_equal_the_records(goldens: Path, record: str) -> None:
    """Also of documents packed in one row, and of rows beside it in which nothing is masked."""
    arrays, config = load(goldens / f"model_{record}.npz")
    model = golden_model(arrays, config)
    x, y = (torch.from_numpy(arrays[name]).long() for name in "xy")
    packed = [torch.from_numpy(arrays["cu_seqlens"]), int(arrays["max_seqlen"])] if "cu_seqlens" in arrays else []
    for mode in modes(model, config):
        mode = {"": "off/", "loop_": "on/"}[mode] if packed else mode
        logits = model.logits(x, 0, *packed)
        np.testing.assert_allclose(logits.detach().numpy(), arrays[f"{mode}logits"], atol=2e-4, rtol=0)
        if packed:
            rows = model.logits(torch.from_numpy(arrays["rows/x"]).long())
            np.testing.assert_allclose(rows.detach().numpy(), arrays[f"rows/{mode}logits"], atol=2e-4, rtol=0)
        loss = model(x, y, *packed)
        assert abs(loss.item() - float(arrays[f"{mode}loss"])) < 2e-5
        model.zero_grad()
        loss.backward()
        for name, expected in section(arrays, f"{mode}grad/").items():
            parameter = model.get_parameter(name)
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert (found - expected).norm() <= 1e-3 * expected.norm() + 1e-9, (mode, name)


@pytest.mark.parametrize("record", RECORDS)
def test_logits_past_the_rotary_reference_length_equal_the_records(goldens: Path, record: str) -> None:
    arrays, config = load(goldens / f"long_{record}.npz")
    model = golden_model(arrays, config)
    x = torch.from_numpy(arrays["x"]).long()
    for mode in modes(model, config):
        with torch.no_grad():
            tail = model.logits(x, first=x.size(1) - arrays[f"{mode}logits_tail"].shape[1])
            loss = model(x, torch.from_numpy(arrays["y"]).long())
        np.testing.assert_allclose(tail.numpy(), arrays[f"{mode}logits_tail"], atol=5e-4, rtol=0)
        assert abs(loss.item() - float(arrays[f"{mode}loss"])) < 5e-4


def matrices(bank: torch.Tensor) -> torch.Tensor:
    """A bank of matrices, or one as a bank."""
    return bank.reshape(-1, *bank.shape[-2:])


@pytest.mark.parametrize("file", ["muon", "muon_pr1493", "muon_pr1855"])
@pytest.mark.parametrize(
    ("dtype", "key", "tolerance"), [("float32", "after_fp32_{}", 1e-4), ("bfloat16", "after{}", 0.15)]
)
def test_muon_moves_matrices_as_the_records_do(goldens: Path, file: str, dtype: str, key: str, tolerance) -> None:
    """PR 1855's by Polar Express, with momenta in that type."""
    arrays, _ = load(goldens / f"{file}.npz")
    hyper, polar = json.loads(str(arrays.pop("hyper"))), {}
    if "coefficients" in hyper:
        assert [list(one) for one in POLAR_EXPRESS] == hyper["coefficients"]
        polar = {"muon_dtype": dtype, "muon_coefficients": "polar_express", "muon_wd_order": hyper["wd_order"]}
    optim = recipe.Optim(
        newton_schulz_steps=hyper["ns_steps" if polar else "backend_steps"], newton_schulz_dtype=dtype,
        muon_row_normalise=hyper.get("row_normalize", False), **polar,
    )  # fmt: skip
    banks = {name: section(arrays, f"{name}/") for name in sorted({key.split("/")[0] for key in arrays})}
    banks = {name: known for name, known in banks.items() if "init" in known}
    weights = {name: [torch.nn.Parameter(one.clone()) for one in matrices(known["init"])]
               for name, known in banks.items()}  # fmt: skip
    named = {f"{name}.{place}": one for name, bank in weights.items() for place, one in enumerate(bank)}
    assert not polar or len(named) == sum(shape[0] for shape in hyper["shapes"])
    muon = Muon(named, lr=hyper["lr"] if polar else 1.0, weight_decay=hyper["wd" if polar else "weight_decay"],
                optim=optim)  # fmt: skip
    rates = hyper["lr_scale" if polar else "lr"]
    for step, (rate, momentum) in enumerate(zip(rates, hyper["momentum"], strict=True)):
        for name, bank in weights.items():
            for weight, gradient in zip(bank, matrices(banks[name][f"grad{step}"]), strict=True):
                weight.grad = gradient.clone()
        muon.step(rate, momentum)
        for name, bank in weights.items():
            expected, init = (matrices(banks[name][which]) for which in (key.format(step), "init"))
            found = torch.stack([weight.detach() for weight in bank])
            assert (found - expected).norm() <= tolerance * (expected - init).norm(), (name, step)


def golden_shards(arrays: dict[str, np.ndarray], folder: Path) -> list[Path]:
    """The golden's training tokens as shards: several where there are, else one."""
    several = [key for key in arrays if key.startswith("shards/")]
    paths = [folder / f"train_{number:06}.bin" for number in range(len(several) or 1)]
    for number, path in enumerate(paths):
        write_shard(path, arrays[f"shards/{number}" if several else "tokens"])
    return paths


@pytest.mark.parametrize("record", ["pr315", "pr1493"])
@pytest.mark.parametrize(
    ("suffix", "dtype", "loss_tolerance", "norm_tolerance"),
    [("_fp32ns", "float32", 2e-4, 1e-3), ("", "bfloat16", 5e-3, 2e-2)],
)
def test_the_training_loop_follows_the_record(
    goldens: Path, tmp_path: Path, record: str, suffix: str, dtype: str, loss_tolerance: float, norm_tolerance: float
) -> None:
    """The real Trainer, fed the golden's tokens as shards, from the golden's initial weights."""
    arrays, config = load(goldens / f"train_{record}.npz")
    hyper, shards = json.loads(str(arrays["hyper"])), golden_shards(arrays, tmp_path)
    length, rows = hyper["seq_len"], hyper["batch_seqs"]
    renamed = {"embed_lr": "tied_embed_lr", "matrix_lr": "matrix_lr", "scalar_lr": "scalar_lr", "adam_betas": "betas",
               "adam_eps": "eps", "adam_wd": "adam_wd", "muon_wd": "muon_wd", "muon_momentum": "momentum",
               "muon_momentum_start": "momentum_start", "muon_momentum_warmup_steps": "momentum_warmup_steps",
               "grad_clip_norm": "grad_clip_norm", "newton_schulz_steps": "backend_steps",
               "embed_wd": "embed_wd"}  # fmt: skip
    schedule = {"warmdown_iters": "warmdown_iters", "warmdown_fraction": "warmdown_frac", "min_lr": "min_lr",
                "loop_at": "enable_looping_at"}  # fmt: skip
    ranked = "loader/seq_len" in arrays
    values = {
        "model": vars(model_config(config)),
        "data": {"seq_len": length, "batch_tokens": rows * length, "spans_per_step": 1, "micro_batch_seqs": rows,
                 "order": "ranked" if ranked else "sequential"},
        "optim": {**{ours: hyper[theirs] for ours, theirs in renamed.items() if theirs in hyper},
                  "newton_schulz_dtype": dtype, "muon_row_normalise": record == "pr1493"},
        "schedule": {**{ours: hyper[theirs] for ours, theirs in schedule.items() if theirs in hyper},
                     "iterations": hyper["iterations"], "max_seconds": 0.0, "warmup_steps": 2 * ranked,
                     "autocast": "off", "compile": "off"},
        "average": {"kind": "ema", "ema_decay": hyper["ema_decay"]},
        "eval": {"seq_len": length, "stride": length},
    }  # fmt: skip
    data = TrainData(shards, shards[:1], flat_bytes(config["vocab_size"]), config["vocab_size"], sha256="golden")
    trainer = Trainer(recipe.from_dict(values), 0, data, tmp_path / "run")
    if "groups" in arrays:
        theirs = {tuple(sorted(g["params"])): (g["kind"].lower(), g["lr"], g["weight_decay"])
                  for g in json.loads(str(arrays["groups"]))}  # fmt: skip
        groups = {tuple(sorted(g.parameters)): (g.optimizer, g.lr, g.weight_decay) for g in trainer.optimizers.groups}
        assert groups == theirs
    trainer.model.load_state_dict(section(arrays, "init/"), strict=True)
    trainer.run()
    if "looping" in arrays:
        first = int(np.argmax(arrays["looping"]))
        assert f"loop:enabled step:{first} " in (tmp_path / "run" / TRAIN_LOG).read_text(encoding="utf-8")
    for key, golden, how in (
        ("lr_multiplier", "lr_scale", {"atol": 1e-12}), ("momentum", "momentum", {"atol": 1e-12}),
        ("loss", f"losses{suffix}", {"atol": loss_tolerance, "rtol": 0}),
        ("grad_norm", f"grad_norms{suffix}", {"rtol": norm_tolerance}),
    ):  # fmt: skip
        np.testing.assert_allclose(column(tmp_path / "run", key), arrays[golden], **how)
    for kind, weights in (("final", trainer.named), ("ema", trainer.averaged)):
        for name, weight in weights.items():
            expected = float(arrays[f"{kind}_norm{suffix}/{name}"])
            assert abs(float(weight.detach().norm()) - expected) <= norm_tolerance * expected, (kind, name)


def test_each_ranks_windows_are_the_records(goldens: Path, tmp_path: Path) -> None:
    """The streams of rank r of w, pools run out and made anew, and the training batches as rank 0 of 1's."""
    arrays, config = load(goldens / "train_pr1493.npz")
    paths, hyper = golden_shards(arrays, tmp_path), json.loads(str(arrays["hyper"]))
    streams = {key: array for key, array in arrays.items() if key.startswith("loader/rank")}
    streams["loader/rank0of1 training"] = arrays["batches"].reshape(-1, arrays["batches"].shape[-1])
    assert len(streams) >= 4 and hyper["seq_len"] + 1 == arrays["batches"].shape[-1]
    for key, expected in streams.items():
        rank, ranks = map(int, key.removeprefix("loader/rank").partition(" ")[0].split("of"))
        length = expected.shape[1] - 1
        data = recipe.Data(order="ranked", seq_len=length, batch_tokens=5 * ranks * length)
        stream = RankedStream(paths, config["vocab_size"])
        found = [stream.own_spans(data, rank, ranks, length) for _ in range(-(-len(expected) // 5))]
        assert np.array_equal(np.concatenate(found)[: len(expected)], expected), key


@pytest.mark.parametrize("mode", ["", "noloop_"])
def test_chunks_are_scored_and_learned_from_as_the_record_does(goldens: Path, mode: str) -> None:
    """Every number of every case: nats before each update, each step's loss and norm, weights after each chunk."""
    arrays, config = load(goldens / "ttt_pr1493.npz")
    token_bytes = TokenBytes(arrays["base_bytes"], arrays["has_leading_space"], arrays["is_boundary"])
    cases = sorted(key.removesuffix("/hyper") for key in arrays if key.endswith("/hyper"))
    assert len(cases) >= 2
    for case in cases:
        hyper, expected = (json.loads(str(arrays[f"{case}/{part}"])) for part in ("hyper", "expected"))
        length, size = hyper["eval_seq_len"], hyper["batch_seqs"]
        adapt = {key: hyper[f"ttt_{key}"] for key in ("lr", "epochs", "momentum", "chunk_tokens")}
        adapt |= {"kind": "sgd", "batch_seqs": size, "grad_clip_norm": hyper["grad_clip_norm"]}
        one = recipe.from_dict({
            "model": vars(model_config(config)), "schedule": {"autocast": "off"}, "adapt": adapt,
            "eval": {"seq_len": length, "stride": hyper["eval_stride"]},
        })  # fmt: skip
        learner = ChunkSGD(golden_model(arrays, config).eval(), one)
        learner.model.looping = not mode
        tokens = arrays[f"{case}/tokens"]
        stream, losses = torch.from_numpy(tokens.astype(np.int64)), torch.zeros(len(tokens) - 1)
        target_bytes = token_bytes.count(tokens[:-1], tokens[1:])
        frozen = [
            score(learner.model, tokens, token_bytes, length, stride, 32, autocast="off")
            for stride in (length, hyper["eval_stride"])
        ]  # fmt: skip
        found: dict[str, list] = {}
        for event in plan_chunks(len(losses), one.eval, one.adapt):
            inside = slice(*event.targets)
            if isinstance(event, ScoreEvent):
                learner.score(event, stream, losses)
                rows = {"nats": losses[inside].double().sum(), "tokens": inside.stop - inside.start}
                rows = [
                    {f"chunk_{key}": value for key, value in (rows | {"bytes": target_bytes[inside].sum()}).items()}
                ]
            else:
                batches = [len(event.sequences[at : at + size]) for at in range(0, len(event.sequences), size)]
                rows = [
                    {"step_lr": event.rate, "step_loss": loss, "step_grad_norm": norm, "step_tokens": rows * length}
                    for (loss, norm), rows in zip(learner.update(event, stream), batches * adapt["epochs"], strict=True)
                ]
            for row in rows:
                for key, value in row.items():
                    found.setdefault(key, []).append(value)
            if not isinstance(event, ScoreEvent) or inside.stop == len(losses):
                norms = [learner.named[name].detach().norm() for name in json.loads(str(arrays["param_order"]))]
                found.setdefault("norms", []).append(norms)
        exact, close = (
            {"step_lr": 1e-12},
            {"step_loss": 1e-3, "step_grad_norm": 1e-3, "chunk_nats": 1e-4, "norms": 1e-4},
        )
        assert set(found) == {"chunk_tokens", "chunk_bytes", "step_tokens", *exact, *close}
        for key, values in found.items():
            tolerance = (exact | close).get(key, 0.0)
            np.testing.assert_allclose(values, arrays[f"{case}/{mode}{key}"], rtol=tolerance, err_msg=key)
        nats, tolerance = float(losses.double().sum()), 1e-5 if case == "main" else 1e-4
        told = [(one.loss_nats_per_token, one.bpb) for one in frozen]
        told.append((nats / len(losses), nats / (math.log(2) * target_bytes.sum())))
        for kind, pair in zip(("standard", "sliding", "ttt"), told, strict=True):
            theirs = [expected[f"{mode}{kind}_val_{unit}"] for unit in ("loss", "bpb")]
            assert pair == pytest.approx(theirs, abs=tolerance), (case, kind)
        for name, weight in section(arrays, f"{case}/{mode}final/").items():
            assert (learner.named[name] - weight).norm() <= 1e-4 * weight.norm(), (case, name)


def test_documents_are_scored_and_learned_from_as_the_record_does(goldens: Path, monkeypatch) -> None:
    """Every event of PR 1855's: nats, norms of the adapters, steps and weights of each phase, the totals."""
    arrays, config = load(goldens / "ttt_pr1855.npz")
    theirs = {"lr": "global_ttt_lr", "epochs": "global_ttt_epochs", "momentum": "global_ttt_momentum",
              "chunk_tokens": "global_ttt_chunk_tokens", "batch_seqs": "global_ttt_batch_seqs",
              "grad_clip_norm": "global_ttt_grad_clip", "lora_rank": "ttt_lora_rank", "lora_alpha": "lora_alpha",
              "lora_lr": "ttt_lora_lr", "lora_wd": "ttt_weight_decay", "lora_tokens": "ttt_chunk_size",
              "lora_window": "ttt_eval_seq_len", "batch_documents": "ttt_batch_size",
              "phases": "phased_ttt_num_phases", "phase_documents": "phased_ttt_prefix_docs"}  # fmt: skip
    adapt = {ours: config[key] for ours, key in theirs.items()} | {"kind": "lora", "phase_rows": 1}
    kinds = [kind for kind in LORA_TARGETS if f"lora0/{kind}/A" in arrays]
    adapt |= {"lora_targets": kinds, "lora_betas": [config["ttt_beta1"], config["ttt_beta2"]]}
    length = config["eval_seq_len"]
    one = recipe.from_dict({
        "model": vars(model_config(config)), "schedule": {"autocast": "off"}, "adapt": adapt,
        "eval": {"seq_len": length, "stride": length},
    })  # fmt: skip
    monkeypatch.setattr(lora, "drawn_factors", lambda shapes, rank, documents, number: {
        kind: torch.from_numpy(arrays[f"lora{number}/{kind}/A"]) for kind in shapes})  # fmt: skip
    learner, tokens, phases = DocumentLoRA(golden_model(arrays, config).eval(), one), arrays["tokens"], 0
    stream, losses = torch.from_numpy(tokens.astype(np.int64)), torch.zeros(len(tokens) - 1)
    expected = iter(e for e in json.loads(str(arrays["events"])) if e["kind"] in ("score", "update", "sgd"))
    for event in plan_documents(tokens, one.eval, one.adapt):
        if isinstance(event, DocumentScore):
            windows = zip(event.rows.tolist(), event.windows.tolist(), strict=True)
            rows = [[row, first + 1, end - first, first - start] for row, (start, first, end) in windows]
            assert next(expected) == {"kind": "score", "chunk": event.chunk, "context": event.width, "rows": rows}
            learner.score(event, stream, losses)
            continue
        for _, norm in (steps := learner.update(event, stream)):
            told = next(expected)
            assert (event.rate, norm) == (pytest.approx(told["lr"], 1e-12), pytest.approx(told["grad_norm"], 1e-3))
        if not steps:
            for kind, norms in next(expected)["norms"].items():
                found = [float(side[kind].detach().norm()) for side in (learner.current.down, learner.current.up)]
                assert found == pytest.approx(norms, rel=1e-3), kind
        elif event.rests:
            assert np.array_equal(learner.text, arrays[f"phase{phases}/tokens"])
            for name, weight in section(arrays, f"phase{phases}/param/").items():
                assert (learner.named[name] - weight).norm() <= 1e-5 * weight.norm(), (phases, name)
            phases += 1
    assert next(expected, None) is None and phases == config["phased_ttt_num_phases"]
    np.testing.assert_allclose(losses, arrays["nats"][1:], atol=1e-3)
    nats, num_bytes = float(losses.double().sum()), int(arrays["bytes"][1:].sum())
    assert nats / len(losses) == pytest.approx(float(arrays["val_loss"]), abs=1e-5)
    assert nats / math.log(2) / num_bytes == pytest.approx(float(arrays["val_bpb"]), abs=1e-5)


def test_documents_are_grouped_and_cut_as_the_record_does(goldens: Path) -> None:
    facts = json.loads((goldens / "misc_pr1855.json").read_text(encoding="utf-8"))
    batches, cases = facts["ttt_batches"], facts["chunk_windows"]
    assert batches and cases
    documents = np.array([[0, length - 1] for length in batches["doc_lens"]])
    groups = groups_in(documents, recipe.Adapt(batch_documents=batches["batch"]))
    assert [{"sorted_index": i, "docs": groups[i].tolist()} for i in reversed(range(len(groups)))] == batches["order"]
    for case in cases:
        adapt = recipe.Adapt("lora", lora_tokens=case["chunk"], lora_window=case["context"], phases=0)
        tokens = np.array([1, *[2] * case["pred_len"]])
        scores = [event for event in plan_documents(tokens, recipe.Eval(), adapt) if isinstance(event, DocumentScore)]
        rows = [[start, end - start, first - start, end - first] for start, first, end in
                np.concatenate([event.windows for event in scores]).tolist()]  # fmt: skip
        assert rows == case["windows"]


def test_hints_and_tilted_nats_are_those_of_pr_2135(goldens: Path) -> None:
    cases = json.loads((goldens / "tilt_pr2135.json").read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        adapt = recipe.Adapt(tilt_order=case["order"], tilt_threshold=case["threshold"], tilt_boost=case["boost"])
        text, gate = np.array(case["tokens"])[1:], np.array(case["gate"], bool)
        hints = torch.from_numpy(hints_of(text, adapt))
        assert np.array_equal(hints >= 0, gate) and gate.sum() == case["gated"]
        assert np.array_equal(hints[gate], np.array(case["hint"])[gate])
        is_hint = hints == torch.from_numpy(text)
        assert int((is_hint & torch.from_numpy(gate)).sum()) == case["hits"]
        nats, hint_nats = torch.tensor(case["nats"]), -torch.tensor(case["log_q_hint"])
        found = torch.where(hints >= 0, tilted(nats, hint_nats, is_hint, adapt.tilt_boost), nats)
        np.testing.assert_allclose(found, case["tilted"], atol=1e-5)


def test_scores_equal_the_records(goldens: Path) -> None:
    """Each-token-once and standard scores; the published forms (tail re-scored or dropped) from the same nats."""
    arrays, _ = load(goldens / "eval_pr315.npz")
    model, tokens = golden_model(*load(goldens / "model_pr315.npz")).eval(), arrays["tokens"]
    table = TokenBytes(arrays["base_bytes"], arrays["has_leading_space"], arrays["is_boundary"])
    cases = json.loads(str(arrays["expected"]))
    assert cases
    for case in cases:
        seq_len, stride = case["seq_len"], case["stride"]
        once = score(model, tokens, table, seq_len, stride, 7, autocast="off")
        assert (once.tokens, once.bytes) == (case["tokens_scored"], case["bytes_scored"])
        whole = tokens[: (len(tokens) - 1) // seq_len * seq_len + 1]  # the published standard score drops the tail
        standard = score(model, whole, table, seq_len, seq_len, 7, autocast="off")
        found = {
            "each_token_once": (once.loss_nats_per_token, once.bpb),
            "standard": (standard.loss_nats_per_token, standard.bpb),
            "published_code": published_sliding(model, tokens, table, seq_len, stride),
        }
        for name, (loss, bpb) in found.items():
            assert abs(loss - case[f"{name}_val_loss"]) < 1e-5 and abs(bpb - case[f"{name}_val_bpb"]) < 1e-5, name


@torch.no_grad()
def published_sliding(model: GPT, tokens: np.ndarray, table: TokenBytes, seq_len: int, stride: int):
    """As published (papers/machinery.md): every start, the last `stride` targets of each; tails are re-scored."""
    n, alike = len(tokens) - 1, {}
    for start in range(0, n, stride):
        end = min(start + seq_len, n)
        first = 0 if start == 0 else max(end - start - stride, 0)
        alike.setdefault((end - start, first), []).append(tokens[start : end + 1])
    nats, count, num_bytes = 0.0, 0, 0
    for (length, first), windows in alike.items():
        ids = np.stack(windows).astype(np.int64)
        inputs, targets = torch.from_numpy(ids[:, :-1]), torch.from_numpy(ids[:, 1 + first :])
        nats += float(model.token_losses(inputs, targets, first).double().sum())
        count += len(windows) * (length - first)
        num_bytes += int(table.count(ids[:, first:-1], ids[:, 1 + first :]).sum())
    return nats / count, nats / (math.log(2) * num_bytes)


def test_case_marks_tokens_and_sidecar_are_the_records_own(goldens: Path) -> None:
    told = json.loads((goldens / "caseops.json").read_text(encoding="utf-8"))
    tokenizer = CaseTokenizer(goldens / "caseops_v1.model")
    stream, sidecar = [], []
    for case in told["cases"]:
        assert to_cases(case["text"]) == case["transformed"] and from_cases(case["transformed"]) == case["text"]
        ids, sizes = tokenizer.encode_with_bytes(case["text"])
        assert [tokenizer.bos_id, *ids] == case["ids"]
        assert [tokenizer.piece(token) for token in ids] == case["pieces"]
        # of an empty document the record counts no bytes for BOS either, one entry too few
        assert [0, *sizes] == (case["token_bytes"] or [0]) and sum(sizes) == case["sidecar_bytes"]
        stream += case["ids"]
        sidecar += case["token_bytes"]
    assert stream == told["stream"] and sidecar == told["sidecar"]


def test_bytes_of_the_published_tokenizer_are_those_of_the_decoded_text(goldens: Path) -> None:
    case = json.loads((goldens / "bytes_fineweb8192.json").read_text(encoding="utf-8"))
    tokenizer, ids = Tokenizer(next(goldens.glob("*8192*.model"))), np.array(case["ids"])
    assert not tokenizer.lossless and [tokenizer.bos_id, *tokenizer.encode(case["text"])] == case["ids"]
    found = tokenizer.bytes.count(ids[:-1], ids[1:])
    assert found.tolist() == case["token_bytes"]
    decoded = len(tokenizer.decode(case["ids"]).encode())
    assert found.sum() == decoded == case["total_bytes"] == case["decoded_bytes"]


def golden_grid(scheme: str) -> Grid:
    """The grid of a published scheme's name, as int6_rowmax, int7_percentile_pr332, int6step4_gptqlite_pr534."""
    bits, rule, *rest = scheme.split("_")
    if bits == "fakequant6":
        return GRIDS[f"int6_fake_{rule}"]
    if rule == "gptqlite":
        return GRIDS["int8_clip_search_step4" if bits.endswith("step4") else "int8_clip_search"]
    row = "row_nofloor" if "nofloor" in rest else "row"
    return GRIDS[bits + "_" + {"percentile": "row_clip", "rowmax": row, "clipsearch": "clip_search"}[rule]]


def test_every_published_quantiser_gives_exactly_the_same_codes_scales_and_fake_weights(goldens: Path) -> None:
    arrays, _ = load(goldens / "quant.npz")
    known = {key: array for key, array in arrays.items() if not key.startswith("in/")}
    assert known
    for key, expected in known.items():
        scheme, case, *what = key.split("/")
        w, grid = torch.from_numpy(arrays[f"in/{case}"]), golden_grid(scheme)
        q, scale = quantise_tensor(w, grid) if what else (None, None)
        found = {"": fake_quantise(w, grid), "q": q, "scale": scale}["".join(what)]
        assert np.array_equal(found.numpy(), expected), key


def sigma_grid(how: dict) -> Grid:
    """The grid of a published clip: `clip_sigmas` standard deviations, codes up to `clip_range`."""
    return dataclasses.replace(GRIDS[f"int{how['clip_range'].bit_length() + 1}_sigma"], clip_sigmas=how["clip_sigmas"])


def test_clips_by_standard_deviations_give_exactly_the_published_codes_and_scales(goldens: Path) -> None:
    arrays, _ = load(goldens / "quant_pr1493.npz")
    schemes = json.loads(str(arrays["schemes"]))
    assert schemes
    for scheme, how in schemes.items():
        for case, w in section(arrays, "in/").items():
            q, scale = quantise_tensor(w, sigma_grid(how))
            assert np.array_equal(q.numpy(), arrays[f"{scheme}/{case}/q"]), (scheme, case)
            assert np.array_equal(scale.numpy(), arrays[f"{scheme}/{case}/scale"]), (scheme, case)


def test_rounding_in_turn_gives_the_published_scales_codes_and_error(goldens: Path) -> None:
    """Codes but for what a tie in single precision moves; the error is weighted by the Hessian."""
    arrays, _ = load(goldens / "quant_pr1493.npz")
    cases = json.loads(str(arrays["gptq_info"]))["cases"]
    assert cases
    for name, how in cases.items():
        case, _, kind = name.partition("/")
        w, hessian = (torch.from_numpy(arrays[f"gptq/{case}/{key}"]) for key in ("w", "hessian"))
        feedback, used = feedback_of(hessian, 0.01, "activation")
        ((q, scale),) = quantise_in_turn([w], sigma_grid(how), [feedback])
        assert used == 0.01 and np.array_equal(scale.numpy(), arrays[f"gptq/{case}/{kind}/scale"]), name
        assert (q.numpy() != arrays[f"gptq/{case}/{kind}/q"]).mean() <= 0.005, name
        error = dequantise(q, scale).double() - w.double()
        weighted = float(((error @ hessian.double()) * error).sum())
        assert weighted == pytest.approx(how["weighted_error"], rel=0.005), name


def test_a_whole_export_has_the_published_inputs_codes_and_losses(goldens: Path, tmp_path: Path) -> None:
    """From the record's calibration tokens to what is read back from our file."""
    (arrays, _), (network, config) = load(goldens / "quant_pr1493.npz"), load(goldens / "model_pr1493.npz")
    info, published = json.loads(str(arrays["export/info"])), load_recipe("pr1493").quant
    quant = dataclasses.replace(
        published, small_tensor_elements=info["small_tensor_elements"], clip_sigmas=info["matrix_clip_sigmas"],
        embed_clip_sigmas=info["embed_clip_sigmas"], compressor="zstd",
    )  # fmt: skip
    settings = recipe.Recipe(model=model_config(config), quant=quant, schedule=recipe.Schedule(autocast="off"))
    batches = torch.from_numpy(arrays["export/calibration"]).long()
    weights = section(network, "param/")
    found = gather(settings, weights, batches.flatten(0, 1), torch.device("cpu"), ALONE)
    per_batch = found.tokens / len(batches)
    for name, expected in section(arrays, "export/hessian_diag/").items():
        diagonal = found.of(name).diagonal() * per_batch
        assert (diagonal - expected).norm() <= 1e-5 * expected.norm(), name
    for name, expected in section(arrays, "export/hessian/").items():
        assert (found.of(name) * per_batch - expected).norm() <= 1e-5 * expected.norm(), name
    pack(weights, settings.model, quant, tmp_path / "m", hessians=found, code_bytes=0, cap_bytes=10**6)
    state, stored, codes, differing = unpack(tmp_path / "m")[1], section(arrays, "export/stored/"), 0, 0
    for name, kind in json.loads(str(arrays["export/meta"])).items():
        if kind.startswith("passthrough"):
            assert torch.equal(state[name], stored[name].float()), name
            continue
        q, scale = stored[f"{name}.q"], stored[f"{name}.scale"]
        ours = (state[name] / scale.float()[:, None]).round()
        assert torch.equal(dequantise(ours, scale), state[name]), f"{name}: other scales"
        codes, differing = codes + q.numel(), differing + int((ours != q).sum())
    assert codes and differing <= 0.005 * codes
    model = golden_model(network, config)
    model.load_state_dict(state, strict=True)
    x, y = (torch.from_numpy(network[name]).long() for name in "xy")
    for mode in modes(model, config):
        loss = model(x, y).item()
        assert abs(loss - float(arrays[f"export/{mode}loss"])) < (2e-3 if differing else 2e-5), mode


def test_bytes_are_shuffled_and_squeezed_as_published(goldens: Path) -> None:
    """The record marks what it shuffled and leaves single bytes alone; our file's header says it instead."""
    arrays, _ = load(goldens / "quant_pr1493.npz")
    info = json.loads(str(arrays["bytes_info"]))
    found = importlib.util.find_spec("brotli") and importlib.metadata.version("brotli")
    cases = [key.split("/")[1] for key in arrays if key.startswith("bytes/") and key.endswith("/in")]
    assert cases
    for case in cases:
        data, expected = (arrays[f"bytes/{case}/{key}"].tobytes() for key in ("in", "shuffled"))
        marked = b"BSHF\x02" + shuffled(data) if len(data) > 1 else data
        assert marked == expected and unshuffled(shuffled(data)) == data, case
        if found == info["versions"]["brotli"]:
            stream = squeeze(marked)
            assert len(stream) == info[case]["brotli_bytes"] and unsqueeze(stream, len(marked)) == marked, case
            assert hashlib.sha256(stream).hexdigest() == info[case]["brotli_sha256"], case


def test_gradient_guided_allocation_gives_exactly_the_published_bits(goldens: Path) -> None:
    cases = json.loads((goldens / "gradquant_alloc.json").read_text())
    assert cases
    for case in cases:
        assert allocate_bits(case["sensitivity"]) == case["bits"], f"{len(case['bits'])} tensors"


def test_the_packing_of_pr1855_has_the_published_codes_scales_and_corrections(goldens: Path) -> None:
    """GPTQ by class, gates as rows, and the low-rank factors, whose signs the routine of the pairs decides."""
    arrays, _ = load(goldens / "quant_pr1855.npz")
    cases = json.loads(str(arrays["meta"]))["cases"]
    assert cases
    for how in cases:
        w, hessian, q, scale = (torch.from_numpy(arrays[f"{how['name']}/{key}"]) for key in ("w", "H", "q", "scale"))
        feedback, used = feedback_of(hessian, how["damp"], "activation")
        ((found, scales),) = quantise_in_turn([w], sigma_grid(how), [feedback])
        assert used == how["damp"] and torch.equal(scales, scale), how["name"]
        assert (found != q).float().mean() <= 1e-4, how["name"]
        error = dequantise(found, scales).double() - w.double()
        weighted = float(((error @ hessian.double()) * error).sum())
        assert weighted == pytest.approx(how["weighted_error"], rel=1e-4), how["name"]
    q, scale = quantise_tensor(torch.from_numpy(arrays["gate/w"]), GRIDS["int8_row"])
    assert np.array_equal(q.numpy(), arrays["gate/q"]) and np.array_equal(scale.numpy(), arrays["gate/scale"])
    corrected = [key.partition("/")[0] for key in arrays if key.endswith("/E")]
    assert corrected
    for case in corrected:
        error, a, b, wanted = (torch.from_numpy(arrays[f"{case}/{key}"]) for key in ("E", "A", "B", "correction"))
        factors = coded_factors(a, b, 64)
        for values, key in zip(factors, ("qA", "sA", "qB", "sB"), strict=True):
            assert np.array_equal(values.numpy(), arrays[f"{case}/{key}"].reshape(values.shape)), (case, key)
        torch.testing.assert_close(factors.product(), wanted, rtol=1e-5, atol=1e-7)
        ours = leading_pairs(error, len(b))
        torch.testing.assert_close(ours[0] @ ours[1], a @ b, rtol=1e-4, atol=1e-5)


def test_a_small_state_is_packed_as_pr1855_packs_it(goldens: Path, tmp_path: Path, monkeypatch) -> None:
    """Through the file: which tensors are on which grid, which are corrected, and what comes back."""
    arrays, _ = load(goldens / "quant_pr1855.npz")
    weights, means, out = (section(arrays, f"whole/{part}/") for part in ("w", "H", "out"))
    told = json.loads(str(arrays["meta"]))["whole"]
    monkeypatch.setattr(pack_module, "check_tensors", lambda table, model: None)  # no whole model's tensors
    published = dataclasses.replace(
        load_recipe("pr1855").quant, low_rank=told["lqer_rank"], low_rank_top=told["lqer_top_k"],
        low_rank_group=told["lqer_group"], compressor="zstd",
    )  # fmt: skip
    path, hessians = tmp_path / "m", Hessians(means, 1)
    pack(weights, recipe.Model(), published, path, hessians=hessians, code_bytes=0, cap_bytes=10**6)
    header, _ = contents(path)
    grids = {name: grid for name, grid, _ in header["tensors"]}
    assert header["low_rank"].keys() == {name for name, how in told["meta"].items() if how.endswith("lqer_asym")}
    monkeypatch.setattr(unpack_module, "check_tensors", lambda table, model: None)
    state = unpack(path)[1]
    for name, how in told["meta"].items():
        error = float((state[name] - weights[name]).norm())
        assert error == pytest.approx(told["dequantised_error"][name], rel=1e-3, abs=1e-6), name
        if how.startswith("passthrough"):
            assert grids[name] == "fp16" and torch.equal(state[name], out[name].float()), name
        elif how == "gate_int8_row":
            assert grids[name] == "int8_row", name
            assert torch.equal(state[name], dequantise(out[f"{name}.gq"], out[f"{name}.gs"])), name
        else:
            assert grids[name].removesuffix("_sigma") == how[6:10], name
            rounded = dequantise(out[f"{name}.q"], out[f"{name}.scale"])
            if name not in header["low_rank"]:
                assert (rounded != state[name]).float().mean() <= 1e-4, name


def test_rows_are_sorted_by_similarity_as_published(goldens: Path) -> None:
    case = json.loads((goldens / "misc_pr1855.json").read_text())["similarity_sort"]
    assert similarity_order(np.array(case["matrix"], np.int8)).tolist() == case["order"]
