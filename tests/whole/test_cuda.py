"""The real thing on a CUDA device: attention kernels, a compiled step, training, evaluation, NCCL.

Each is skipped, with the reason, where there is no CUDA device or no FlashAttention.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import free_port
from record_counts import COUNTS
from small import column, interrupt_at, noisy_model, small_data, small_recipe

from pgolf_core.base import device as machine
from pgolf_core.base.parallel import PATIENCE
from pgolf_core.network import attention, documents
from pgolf_core.network.attention import _flash_fault, causal_attention, kernel_name, sdpa
from pgolf_core.network.choice import qat_grids
from pgolf_core.network.documents import document_attention
from pgolf_core.network.model import build_model, parameter_shapes
from pgolf_core.network.score import score
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.training.loop import Trainer, train
from pgolf_core.training.optim import Optimizers, clip_gradients

pytestmark = pytest.mark.cuda


def gradients(y: torch.Tensor, weight: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    return [x.float() for x in torch.autograd.grad((y.float() * weight).sum(), leaves)]


@pytest.mark.parametrize("name", [row[0] for row in attention.FLASH] + ["SDPA"])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_each_kernel_equals_float32_sdpa_forward_and_backward(monkeypatch, name: str, width: int) -> None:
    for _, module, namespace, majors in (row for row in attention.FLASH if row[0] == name):
        fault = _flash_fault(name, module, namespace)
        if fault is not None:
            pytest.skip(fault or f"{module} is not installed")
        if torch.cuda.get_device_capability()[0] not in majors:
            pytest.skip(f"{name} does not run on this GPU")
    monkeypatch.setattr(attention, "choose_kernel", lambda *_: (name, ""))
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(2, 300, heads, width) for heads in (8, 4, 4)]
    q, k, v = (torch.randn(shape, generator=generator, device="cuda").bfloat16().requires_grad_() for shape in shapes)
    weight = torch.randn(shapes[0], generator=generator, device="cuda")
    full = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected, found = sdpa(*full), causal_attention(q, k, v)
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    for a, b in zip(gradients(found, weight, q, k, v), gradients(expected, weight, *full), strict=True):
        assert (a - b).norm() < 2e-2 * b.norm()


@pytest.mark.parametrize("record", COUNTS)
def test_a_full_size_step_compiles_to_one_graph_and_lowers_the_loss(record: str) -> None:
    recipe, device = load_recipe(record), machine.pick_device()
    model = build_model(recipe.model, 0).to(device)
    if recipe.qat.kind != "off":
        model.set_fake_grids(qat_grids(parameter_shapes(recipe.model), recipe.quant, recipe.qat))
    optimizers = Optimizers(model, recipe.optim)
    ids = torch.randint(1024, (2, 2049), device=device)
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False, fullgraph=True)
    losses = []
    for _ in range(4):
        with machine.autocasting(device, "auto"):
            loss = compiled(ids[:, :-1], ids[:, 1:])
        loss.backward()
        assert math.isfinite(clip_gradients(optimizers.trained, recipe.optim.grad_clip_norm))
        optimizers.step(1.0, 0.9)
        losses.append(loss.item())
    assert abs(losses[0] - math.log(1024)) < 0.1 and losses[-1] < losses[0]


def test_torchs_varlen_kernel_equals_documents_one_by_one_in_float32_forward_and_backward(monkeypatch) -> None:
    monkeypatch.setattr(documents, "choose_kernel", lambda *_: ("SDPA", ""))
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(2, 300, heads, 64) for heads in (8, 4, 4)]
    q, k, v = (torch.randn(shape, generator=generator, device="cuda").bfloat16().requires_grad_() for shape in shapes)
    weight = torch.randn(shapes[0], generator=generator, device="cuda")
    starts = torch.tensor([0, 1, 130, 300, 555, 600, 600], dtype=torch.int32, device="cuda")
    full = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected, found = (document_attention(*x, starts, 300) for x in (full, (q, k, v)))
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    for a, b in zip(gradients(found, weight, q, k, v), gradients(expected, weight, *full), strict=True):
        assert (a - b).norm() < 2e-2 * b.norm()


def test_compiled_and_eager_bfloat16_agree_with_float32() -> None:
    device = machine.pick_device()
    model = noisy_model(0.1, ve_dim=8, ve_layers=[1]).to(device)
    with torch.no_grad():
        ids = torch.randint(64, (4, 65), device=device)
        plain = model(ids[:, :-1], ids[:, 1:])
        with machine.autocasting(device, "auto"):
            eager = model(ids[:, :-1], ids[:, 1:])
            compiled = torch.compile(model, dynamic=False, fullgraph=True)(ids[:, :-1], ids[:, 1:])
    assert abs(eager - plain) < 3e-2 and abs(compiled - plain) < 3e-2


def test_float32_products_run_in_tf32() -> None:
    machine.pick_device()
    x = torch.randn(512, 512, device="cuda", dtype=torch.float64)
    error = ((x.float() @ x.float()).double() - x @ x).abs().max().item()
    assert torch.backends.cuda.matmul.allow_tf32
    if torch.cuda.get_device_capability() >= (8, 0):
        assert 1e-3 < error < 1.0


def test_training_on_cuda_learns_logs_its_path_and_memory_and_scores_as_the_cpu_does(tmp_path: Path) -> None:
    data = small_data(tmp_path / "data", train_tokens=4000)
    settings = small_recipe(
        schedule={"iterations": 40, "warmdown_iters": 10, "warmup_steps": 2, "compile": "auto", "autocast": "auto"},
        qat={"kind": "late", "threshold": 0.5},
    )
    trainer = Trainer(settings, 0, data, tmp_path / "run")
    result = trainer.run()
    losses = column(tmp_path / "run", "loss")
    assert losses[-1] < losses[0] - 0.3
    log = (tmp_path / "run" / "train.log").read_text()
    half = machine.autocast_dtype(trainer.device, "auto") is torch.bfloat16
    assert f"attention: {kernel_name('cuda', half, 16)}" in result.path and torch.cuda.get_device_name() in result.path
    assert "peak memory allocated: " in log and "qat:enabled" in log
    how = (trainer.val_tokens, data.token_bytes, 16, 4, 8)
    on_gpu = score(trainer.model, *how, autocast="off")
    on_cpu = score(trainer.model.cpu(), *how, autocast="off")
    assert on_gpu.tokens == on_cpu.tokens and abs(on_gpu.bpb - on_cpu.bpb) < 5e-3


def test_a_run_stopped_on_cuda_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    data, settings = small_data(tmp_path / "data"), small_recipe()
    train(settings, 0, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="stopped at step 6"):
        train(settings, 0, data, tmp_path / "cut", progress=interrupt_at(6))
    assert train(settings, 0, data, tmp_path / "cut").resumed_at_steps == [6]
    whole, cut = (torch.tensor(column(tmp_path / name, "loss")) for name in ("whole", "cut"))
    torch.testing.assert_close(whole, cut, atol=1e-4, rtol=0)


def test_nccl_carries_cuda_tensors_and_gloo_cpu_tensors_in_one_group() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    device = machine.pick_device()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=address, rank=0, world_size=1, timeout=PATIENCE, device_id=device
    )
    try:
        flat = torch.arange(5.0, device=device)
        dist.all_reduce(flat, async_op=True).wait()
        part = torch.ones(2, 3, 4, device=device, dtype=torch.bfloat16)
        whole = torch.empty_like(part)
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather(whole, part, async_op=True).wait()
        dist.broadcast(flat, src=0)
        clock = torch.tensor([1.5, 0.0], dtype=torch.float64)
        dist.all_reduce(clock, op=dist.ReduceOp.MAX)
        assert flat.tolist() == [0, 1, 2, 3, 4] and torch.equal(whole, part) and clock.tolist() == [1.5, 0.0]
    finally:
        dist.destroy_process_group()
