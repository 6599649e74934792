"""The whole training step of the five full-size recipes without data: shapes, dtypes, exchanges, shares, graphs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from flash import installed, pretend_gpu
from record_counts import COUNTS, RECORDS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from traced import MULTIPLIER, STEP, WORLD, Indexing, Trace, muon_shares, trace_step

from pgolf_core.base import device as machine
from pgolf_core.network import attention
from pgolf_core.network.attention import choose_kernel, rotary_tables
from pgolf_core.network.grid import qat_grids
from pgolf_core.network.model import GPT, build_model, parameter_shapes, rms_norm
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Model


@pytest.fixture(scope="module", params=RECORDS)
def trace(request, tmp_path_factory) -> Trace:
    return trace_step(request.param, tmp_path_factory.mktemp(request.param))


def test_a_step_of_a_full_size_recipe_traces_to_its_end_and_takes_no_memory(trace: Trace) -> None:
    trainer = trace.trainer
    assert trainer.step == STEP + 1 and trace.record["loss"] == trace.record["grad_norm"] == 1.0
    assert sum(p.numel() for p in trainer.named.values()) == COUNTS[trace.name]
    assert trace.real_results == 0 and trace.traced_bytes > 2e10 and trace.rss_bytes < 1e9
    assert all(isinstance(p, FakeTensor) and p.grad is None for p in trainer.named.values())


def test_a_rank_gets_its_eighth_of_the_tokens_in_one_micro_batch(trace: Trace) -> None:
    data = trace.trainer.recipe.data
    assert trace.batches == [(data.batch_tokens // 8 // data.seq_len, data.seq_len)] and data.seq_len == 2048
    assert trace.batches[0][0] == (32 if trace.trainer.recipe.data.batch_tokens == 524_288 else 48)


def test_every_layer_hands_bfloat16_heads_in_flash_attentions_layout_to_the_kernel(trace: Trace) -> None:
    rows = trace.batches[0][0]
    q, kv = (rows, 2048, 8, 64), (rows, 2048, 4, 64)
    assert trace.attended == [(q, kv, kv)] * trace.trainer.recipe.model.num_layers


def test_the_ranks_exchange_each_gradient_once_and_the_loss(trace: Trace) -> None:
    trained = sum(p.numel() for p in trace.trainer.optimizers.trained)
    assert sum(shape.numel() for shape in trace.reduced) == trained + 1
    assert len(trace.reduced) <= 8, "small gradients travel together"


def test_a_rank_orthogonalises_its_share_of_every_stack_of_matrices(trace: Trace) -> None:
    shares = muon_shares(trace.trainer)
    assert trace.orthogonalised == [(share, *shape) for shape, share in shares.items()]
    assert trace.gathered == [((WORLD.size * share, *shape), torch.bfloat16) for shape, share in shares.items()]
    matrices = [p for name, p in trace.trainer.named.items() if ".attn.c_" in name or ".mlp." in name]
    assert sum(len(members) for members in trace.trainer.optimizers.muon.shapes.values()) > len(matrices)


def test_a_step_writes_every_trained_weight_and_every_average_and_all_state_is_float32(trace: Trace) -> None:
    trainer = trace.trainer
    assert {name for name, p in trainer.named.items() if not trace.written[id(p)]} == set()
    averages = trainer.average.tensors()
    averages.pop("snapshots", None)
    assert set(averages) == set(trainer.named) and all(trace.written[id(tensor)] for tensor in averages.values())
    state = {**trainer.named, **trainer.optimizers.tensors(), **trainer.average.tensors()}
    odd = {name for name, tensor in state.items() if tensor.dtype is not torch.float32}
    assert odd <= {"snapshots"}


def test_qat_rounds_every_packed_matrix_once_a_micro_batch_and_gradient_statistics_are_gathered(trace: Trace) -> None:
    trainer = trace.trainer
    assert trainer.qat_on == (trainer.recipe.qat.kind != "off")
    assert trace.int8_results == (len([p for p in trainer.qat_grids if "emb" not in p]) if trainer.qat_on else 0)
    assert MULTIPLIER < 0.1 and trace.trainer.meter.steps == 1


@pytest.mark.parametrize("record", RECORDS)
def test_under_cuda_autocast_stream_heads_and_hidden_units_stay_bfloat16(monkeypatch, record: str) -> None:
    seen: dict[str, set[torch.dtype]] = {}

    def note(what: str):
        return lambda _, args, output=None: seen.setdefault(what, set()).add(
            (args[0] if output is None else output).dtype
        )

    with FakeTensorMode(), torch.no_grad(), Indexing():
        with torch.device("cuda:0"):
            model = GPT(load_recipe(record).model)
        pretend_gpu(monkeypatch)  # not before: torch would then make the model's constants on a real device
        with torch.device("cuda:0"), installed(monkeypatch, "FlashAttention-3"):
            for block in model.blocks:
                block.register_forward_hook(note("stream"))
                block.attn.proj.register_forward_pre_hook(note("attended"))
                block.mlp.proj.register_forward_pre_hook(note("hidden"))
            ids = torch.empty(48, 2048, dtype=torch.int64)
            with machine.autocasting(torch.device("cuda:0"), "auto"):
                assert choose_kernel("cuda", True)[0] == "FlashAttention-3"  # whose stand-in refuses float32
                normed = F.rms_norm(model.tok_emb.weight.bfloat16(), (512,))
                assert normed.dtype is torch.float32, "torch's trap is gone: rms_norm may drop its cast"
                assert rms_norm(model.tok_emb.weight.bfloat16(), 1e-7).dtype is torch.bfloat16
                tables = rotary_tables(2048, 16, 10000.0, 1024, ids.device)
                logits, loss = model.logits(ids), model(ids, ids)
    assert seen == {what: {torch.bfloat16} for what in ("stream", "attended", "hidden")}
    assert {x.dtype for x in (*tables, logits, loss)} == {torch.float32} and logits.device.type == "cuda"


def compiled_on(graphs: list[int], model: GPT):
    """The model compiled as training compiles it, but noting each graph's size instead of making code of it."""
    return torch.compile(
        model,
        backend=lambda graph, _: graphs.append(len(graph.graph.nodes)) or graph.forward,
        dynamic=False,
        fullgraph=True,
    )


def narrow(config: Model) -> Model:
    """A record's network, every part of it present, with two narrow layers."""
    few = {"ve_dim": 16, "ve_layers": (1,)} if config.ve_dim else {}
    return dataclasses.replace(
        config, num_layers=2, model_dim=64, num_heads=4, num_kv_heads=2, mlp_hidden=96, vocab_size=64,
        rope_dims=config.rope_dims // 4, xsa_last_n=min(config.xsa_last_n, 1),
        bigram_rows=min(config.bigram_rows, 32), bigram_dim=16, **few,
    )  # fmt: skip


@pytest.mark.parametrize("record", [pytest.param(r, marks=[pytest.mark.slow] * (r != "pr194")) for r in RECORDS])
def test_each_records_network_is_one_graph_and_qat_makes_a_second_that_stays(record: str) -> None:
    recipe = load_recipe(record)
    model, graphs = build_model(narrow(recipe.model), 0), []
    quant = dataclasses.replace(recipe.quant, small_tensor_elements=0, exceptions=())
    grids = qat_grids(parameter_shapes(model.config), quant, recipe.qat)
    ids = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    compiled = compiled_on(graphs, model)
    for on in (False, True) if recipe.qat.kind != "off" else (False,):
        model.set_fake_grids(grids if on else {})
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = compiled(ids[:, :-1], ids[:, 1:])
            loss.backward()
        assert len(graphs) == 1 + on
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss.detach(), model(ids[:, :-1], ids[:, 1:]))


@pytest.mark.slow
@pytest.mark.parametrize("record", RECORDS)
def test_a_full_size_network_at_its_real_batch_is_one_graph_forward_and_backward(monkeypatch, record: str) -> None:
    recipe, graphs = load_recipe(record), []
    rows = recipe.data.micro_batch_seqs
    torch._dynamo.reset()
    with FakeTensorMode(), installed(monkeypatch):
        monkeypatch.setattr(attention, "choose_kernel", lambda *_: ("SDPA", ""))
        model = GPT(recipe.model)
        model.set_fake_grids(qat_grids(parameter_shapes(recipe.model), recipe.quant, recipe.qat))
        ids = torch.empty(rows, recipe.data.seq_len, dtype=torch.int64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = compiled_on(graphs, model)(ids, ids)
        loss.backward()
    assert len(graphs) == 1 and loss.dtype is torch.float32
    assert {name for name, p in model.named_parameters() if p.grad is None or p.grad.shape != p.shape} == set()
