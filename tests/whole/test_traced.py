"""The training step of the full-size recipes without data: the real Trainer on fake tensors, as rank 3 of 8.

torch's fake process group answers every exchange at once; its fake tensors know what each operation returns.
"""

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed._tools.fake_collectives  # tells fake tensors what exchanges return
import torch.nn.functional as F
from flash import MODULES, installed, pretend_gpu
from record_counts import COUNTS, RECORDS
from small import flat_bytes
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pgolf_core.base import device as machine
from pgolf_core.base.parallel import BUCKET_ELEMENTS, World
from pgolf_core.lab.data.build import write_shard
from pgolf_core.network import attention
from pgolf_core.network.attention import choose_kernel, rotary_tables
from pgolf_core.network.choice import qat_grids
from pgolf_core.network.model import GPT, build_model, layer_order, parameter_shapes, rms_norm
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.recipes.recipe import Model
from pgolf_core.training.average import build_average
from pgolf_core.training.loop import TrainData, Trainer

WORLD, KERNEL = World(rank=3, size=8), "FlashAttention-3"
STEP = 49
"""At which everything is on: the rate is at a twentieth, so late QAT and statistics; SWA takes one in 50 steps."""
SHORT = ["schedule.compile=off", "schedule.max_seconds=0.0", "schedule.iterations=50", "schedule.warmdown_iters=20"]


@dataclass
class Trace(TorchDispatchMode):
    """What one rank does in one step; the host reads 1.0 where it asks for a number."""

    batches: list[tuple[int, ...]] = field(default_factory=list)
    """Shape of the token ids of every forward pass."""
    orthogonalised: list[tuple[int, ...]] = field(default_factory=list)
    """Shapes of the stacks that Newton-Schulz was given."""
    reduced: list[torch.Size] = field(default_factory=list)
    gathered: list[tuple[torch.Size, torch.dtype]] = field(default_factory=list)
    attended: list[tuple[tuple[int, ...], ...]] = field(default_factory=list)
    """q, k and v of every call of the attention kernel."""
    written: Counter = field(default_factory=Counter)
    """How often each tensor (by identity) was written by an optimiser's or an average's fused operation."""
    int8_results: int = 0
    trainer: Trainer | None = None

    def __post_init__(self):
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        if name.startswith("c10d.allreduce_"):
            self.reduced += [tensor.shape for tensor in args[0]]
        elif name.startswith("c10d._allgather_base_"):
            self.gathered.append((args[0].shape, args[0].dtype))
        elif "._flash_attn_forward" in name:
            assert {x.dtype for x in args[:3]} == {torch.bfloat16}
            self.attended.append(tuple(tuple(x.shape) for x in args[:3]))
        elif name.startswith(("aten._foreach_add_", "aten._foreach_lerp_", "aten._fused_adamw_")):
            self.written.update(id(tensor) for tensor in args[0])
        output = func(*args, **(kwargs or {}))
        self.int8_results += sum(getattr(x, "dtype", None) is torch.int8 for x in tree_leaves(output))
        return output


@pytest.fixture(scope="module", params=RECORDS)
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A record's Trainer, built and one step on, all on fake tensors."""
    recipe, folder = load_recipe(request.param, SHORT), tmp_path_factory.mktemp(request.param)
    vocab = recipe.model.vocab_size
    shards = [folder / f"t{rank}.bin" for rank in range(WORLD.size)]  # one for each rank where they have their own
    for shard in shards:
        write_shard(shard, np.zeros(recipe.data.batch_tokens // WORLD.size + recipe.data.spans_per_step, np.uint16))
    write_shard(folder / "v.bin", np.zeros(recipe.eval.seq_len + 1, np.uint16))
    data = TrainData(shards, [folder / "v.bin"], flat_bytes(vocab), vocab, sha256="")
    dist.init_process_group("fake", rank=WORLD.rank, world_size=WORLD.size, store=FakeStore())
    request.addfinalizer(dist.destroy_process_group)
    with pytest.MonkeyPatch.context() as patch, installed(patch, KERNEL):
        assert attention._flash_fault(KERNEL, *MODULES[KERNEL]) is None
        patch.setattr(attention, "choose_kernel", lambda *_: (KERNEL, ""))
        patch.setattr(machine, "has_bfloat16_hardware", lambda _: True)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(GPT, "to", lambda self, *_: self)  # torch cannot move a module of fake tensors
        with FakeTensorMode(allow_non_fake_inputs=True), Trace() as found:
            trainer = found.trainer = Trainer(recipe, 0, data, folder / "run", world=WORLD)
            trainer.average, trainer.step = build_average(trainer.model, recipe.average), STEP
            model, muon = trainer.loss_of, trainer.optimizers.muon
            work = muon.orthogonalise
            trainer.loss_of = lambda x, y: found.batches.append(tuple(x.shape)) or model(x, y)
            muon.orthogonalise = lambda x, *how: found.orthogonalised.append(tuple(x.shape)) or work(x, *how)
            with trainer.log:
                assert trainer._step()["loss"] == 1.0 and trainer.step == STEP + 1
    return found


def test_a_rank_gets_its_eighth_of_the_tokens_and_every_layer_hands_bfloat16_heads_to_the_kernel(trace: Trace) -> None:
    recipe, trainer = trace.trainer.recipe, trace.trainer
    rows = 32 if recipe.data.batch_tokens == 524_288 else 48
    assert trace.batches == [(rows, 2048)] and rows * 2048 * 8 == recipe.data.batch_tokens
    q, kv = (rows, 2048, 8, 64), (rows, 2048, 4, 64)
    assert trace.attended == [(q, kv, kv)] * sum(map(len, layer_order(recipe.model)))
    assert trainer.model.looping
    assert all(isinstance(p, FakeTensor) and p.grad is None for p in trainer.named.values())


def test_the_ranks_exchange_each_gradient_once_and_a_share_of_every_stack_of_matrices(trace: Trace) -> None:
    optimizers = trace.trainer.optimizers
    numbers = sum(p.numel() for p in optimizers.trained) + 2  # the loss, and the norm of ranks that clip alone
    assert sum(shape.numel() for shape in trace.reduced) == numbers
    assert len(trace.reduced) <= math.ceil(numbers / BUCKET_ELEMENTS) + 1, "small gradients travel together"
    shares = {shape: math.ceil(len(members) / WORLD.size) for shape, members in optimizers.muon.shapes.items()}
    assert trace.orthogonalised == [(share, *shape) for shape, share in shares.items()]
    assert trace.gathered == [((WORLD.size * share, *shape), torch.bfloat16) for shape, share in shares.items()]
    assert sum(map(len, optimizers.muon.shapes.values())) >= 6 * trace.trainer.recipe.model.num_layers


def test_a_step_writes_every_weight_and_average_in_float32_gathers_statistics_and_rounds_once(trace: Trace) -> None:
    trainer = trace.trainer
    assert sum(p.numel() for p in trainer.named.values()) == COUNTS[trainer.recipe.name]
    averages = trainer.average.tensors()
    snapshots = averages.pop("snapshots", None)
    assert (snapshots is None) == (trainer.recipe.average.kind == "ema") and set(averages) == set(trainer.named)
    assert all(trace.written[id(tensor)] for tensor in (*trainer.named.values(), *averages.values()))
    state = (*trainer.named.values(), *trainer.optimizers.tensors().values(), *averages.values())
    assert {tensor.dtype for tensor in state} == {torch.float32} and trainer.meter.steps == 1
    assert trainer.qat_on == (trainer.recipe.qat.kind != "off")
    assert trace.int8_results == (len([p for p in trainer.qat_grids if "emb" not in p]) if trainer.qat_on else 0)


class Indexing(TorchFunctionMode):
    """x[...] of a fake CUDA tensor by torch's own operators: Python's way asks for a CUDA driver, even for a fake."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.Tensor.__getitem__ or args[0].device.type != "cuda":
            return func(*args, **(kwargs or {}))
        x, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        dim = 0
        for place, part in enumerate(index):
            if part is Ellipsis:
                dim = x.ndim - (len(index) - 1 - place)
            elif part is None:
                x, dim = x.unsqueeze(dim), dim + 1
            elif isinstance(part, slice):
                x, dim = torch.ops.aten.slice(x, dim, part.start, part.stop, part.step or 1), dim + 1
            else:
                x = x.select(dim, part)
        return x


@pytest.mark.parametrize("record", COUNTS)
def test_under_cuda_autocast_stream_heads_and_hidden_units_stay_bfloat16(monkeypatch, record: str) -> None:
    seen: set[torch.dtype] = set()
    with FakeTensorMode(), torch.no_grad(), Indexing():
        with torch.device("cuda:0"):
            model = GPT(load_recipe(record).model)
        pretend_gpu(monkeypatch)  # not before: torch would then make the model's constants on a real device
        with torch.device("cuda:0"), installed(monkeypatch, KERNEL):
            for block in model.blocks:
                block.register_forward_hook(lambda _, args, output: seen.add(output.dtype))
                for module in (block.attn.proj, block.mlp.proj):
                    module.register_forward_pre_hook(lambda _, args: seen.add(args[0].dtype))
            ids = torch.empty(48, 2048, dtype=torch.int64)
            with machine.autocasting(torch.device("cuda:0"), "auto"):
                assert choose_kernel("cuda", True)[0] == KERNEL  # whose stand-in refuses float32
                normed = F.rms_norm(model.tok_emb.weight.bfloat16(), (512,))
                assert normed.dtype is torch.float32, "torch's trap is gone: rms_norm may drop its cast"
                assert rms_norm(model.tok_emb.weight.bfloat16(), 1e-7).dtype is torch.bfloat16
                tables = rotary_tables(2048, 16, 10000.0, 1024, ids.device)
                logits, loss = model.logits(ids), model(ids, ids)
    assert seen == {torch.bfloat16} and logits.device.type == "cuda"
    assert {x.dtype for x in (*tables, logits, loss)} == {torch.float32}


def narrow(config: Model) -> Model:
    """A record's network, every part of it present, with two narrow layers."""
    few = {"ve_dim": 16, "ve_layers": (1,)} if config.ve_dim else {}
    return dataclasses.replace(
        config, num_layers=2, model_dim=64, num_heads=4, num_kv_heads=2, mlp_hidden=96, vocab_size=64,
        rope_dims=config.rope_dims // 4, xsa_last_n=min(config.xsa_last_n, 1),
        bigram_rows=min(config.bigram_rows, 32), bigram_dim=16, loop_start=min(config.loop_start, 1),
        loop_end=min(config.loop_end, 2 - config.lanes), parallel_start=min(config.parallel_start, 1), **few,
    )  # fmt: skip


@pytest.mark.parametrize("record", [pytest.param(r, marks=[pytest.mark.slow] * (r != "pr194")) for r in COUNTS])
def test_each_records_network_is_one_graph_and_qat_makes_a_second_that_stays(record: str) -> None:
    """Compiled as training compiles it, but noting each graph instead of making code of it."""
    recipe = load_recipe(record)
    model, graphs = build_model(narrow(recipe.model), 0), []
    quant = dataclasses.replace(recipe.quant, small_tensor_elements=0, exceptions=())
    grids = qat_grids(parameter_shapes(model.config), quant, recipe.qat)
    ids = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    note = lambda graph, _: graphs.append(graph) or graph.forward  # noqa: E731
    compiled = torch.compile(model, backend=note, dynamic=False, fullgraph=True)
    for on in (False, True) if recipe.qat.kind != "off" else (False,):
        model.set_fake_grids(grids if on else {})
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = compiled(ids[:, :-1], ids[:, 1:])
            loss.backward()
        assert len(graphs) == 1 + on
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss.detach(), model(ids[:, :-1], ids[:, 1:]))
