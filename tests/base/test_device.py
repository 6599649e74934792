"""Every choice that depends on the machine, with a pretended GPU; and the traps of library versions."""

import ctypes
import resource
from pathlib import Path
from unittest.mock import Mock, call

import pytest
import torch
from flash import pretend_gpu
from ranks import start_process
from record_counts import RECORDS
from small import small_data, small_recipe

from pgolf_core.base import device as machine
from pgolf_core.base.device import one_thread, pool_of
from pgolf_core.base.names import TRAIN_LOG
from pgolf_core.network.attention import rotary_tables
from pgolf_core.network.model import rms_norm
from pgolf_core.recipes.reading import load_recipe
from pgolf_core.training import loop

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def test_on_cuda_the_rank_s_device_is_picked_and_float32_products_run_in_tf32(monkeypatch) -> None:
    before = torch.get_float32_matmul_precision()
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    try:
        assert machine.pick_device() == torch.device("cuda", 5)
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def fault_before_and_after() -> None:
    def page_faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            torch.ones(16 << 20)  # 64 MB: beyond what glibc learns to keep by itself
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    mapped = page_faults()
    assert machine.keep_freed_memory()
    assert min(page_faults() for _ in range(4)) < 0.01 * mapped  # the heap grows in the first rounds
    machine.give_back_freed_memory()
    assert page_faults() > 0.2 * mapped


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_on_a_cpu_the_pages_of_freed_tensors_are_used_again_until_they_are_given_back() -> None:
    process = start_process(fault_before_and_after)  # of its own: nothing makes glibc forget
    process.join()
    assert process.exitcode == 0


def test_on_a_cpu_precision_and_a_c_library_without_mallopt_are_left_as_they_are(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: pytest.fail("changed"))
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    machine.give_back_freed_memory()
    assert machine.keep_freed_memory() is False and machine.pick_device() == CPU


@pytest.mark.parametrize(
    ("capability", "mode", "half"),
    [((9, 0), "auto", True), ((8, 0), "auto", True), ((7, 5), "auto", False), ((9, 0), "off", False)],
)
def test_autocast_is_bfloat16_where_the_gpu_has_it_and_the_recipe_wants_it(monkeypatch, capability, mode, half) -> None:
    pretend_gpu(monkeypatch, capability)
    assert machine.autocast_dtype(CUDA, mode) is (torch.bfloat16 if half else torch.float32)
    with machine.autocasting(CUDA, mode):
        assert torch.is_autocast_enabled("cuda") is half
        assert not half or torch.get_autocast_dtype("cuda") is torch.bfloat16
    assert not torch.is_autocast_enabled("cuda")


def test_a_batch_goes_to_cuda_from_pinned_memory_without_a_wait_and_stays_as_it_is_on_a_cpu() -> None:
    batch, real = Mock(), torch.arange(3)
    machine.to_device(batch, CUDA)
    assert batch.mock_calls == [call.pin_memory(), call.pin_memory().to(CUDA, non_blocking=True)]
    assert machine.to_device(real, CPU) is real


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize(
    ("said", "words"),
    [("", ""), ("no /tmp/user/x.so\n  compiler", "no compiler"), ("x" * 500, "x" * 80), ("/x/g++", "RuntimeError")],
)
def test_whether_torch_compiles_is_tried_once_a_device_and_a_failure_is_a_few_words(
    monkeypatch, device, said: str, words: str
) -> None:
    graph, ones = Mock(side_effect=RuntimeError(said) if said else None), Mock()
    monkeypatch.setattr(torch, "compile", lambda _: graph)
    monkeypatch.setattr(torch, "ones", ones)
    machine.why_not_compile.cache_clear()
    try:
        assert machine.why_not_compile(device) == machine.why_not_compile(device) == words
        ones.assert_called_once_with(1, device=device)
    finally:
        machine.why_not_compile.cache_clear()


def test_one_line_names_gpu_dtype_graph_and_kernel(monkeypatch) -> None:
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(machine, "why_not_compile", lambda _: "")
    line = machine.describe(CUDA, "auto", "auto", "SDPA")
    assert line == "device: NVIDIA pretended | compute: bfloat16 | graph: compiled | attention: SDPA"


def test_peak_memory_is_logged_in_the_fields_format_on_cuda_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 20_481 * 2**20 + 5)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 21_000 * 2**20)
    line = machine.peak_memory(CUDA)
    assert line == "peak memory allocated: 20481 MiB reserved: 21000 MiB" and machine.peak_memory(CPU) == ""
    monkeypatch.setattr(loop, "peak_memory", lambda _: line)
    loop.train(small_recipe(schedule={"iterations": 1}), 0, small_data(tmp_path / "data"), tmp_path)
    assert line in (tmp_path / TRAIN_LOG).read_text().splitlines()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_norms_epsilon_is_the_recipes_whatever_the_dtype(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.full((3, 8), 0.005, dtype=dtype)
    for eps in (2**-7, 2**-23):
        expected = x.float() / (x.float().square().mean(-1, keepdim=True) + eps).sqrt()
        found = rms_norm(x, eps)
        assert found.dtype is dtype
        torch.testing.assert_close(found.float(), expected, atol=0, rtol=tolerance)


@pytest.mark.parametrize("record", RECORDS)
def test_rotary_angles_are_float32_and_exact_at_every_position_under_autocast_too(record: str) -> None:
    config = load_recipe(record).model
    base, dims = config.rope_base, config.rope_dims
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cos, sin = rotary_tables(2048, dims, base, config.rope_reference_tokens, CPU)
    assert cos.dtype is sin.dtype is torch.float32
    if reference := config.rope_reference_tokens:
        base *= max(2048 / reference, 1) ** (dims / (dims - 2))
    rates = base ** -(torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angles = torch.arange(2048, dtype=torch.float64)[:, None] * rates
    assert max((cos[:, 0] - angles.cos()).abs().max(), (sin[:, 0] - angles.sin()).abs().max()) < 5e-4
    assert len({tuple(row) for row in torch.cat((cos, sin), -1)[:, 0].tolist()}) == 2048, "two positions look alike"


def test_one_thread_ends_with_as_many_as_before_even_after_an_error():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2


def test_a_pool_shares_torchs_threads_out_and_gives_them_back_even_after_an_error():
    torch.set_num_threads(4)
    with pytest.raises(ZeroDivisionError), pool_of(2) as pool:
        assert [*pool.map(lambda _: torch.get_num_threads(), range(6))] == [2] * 6
        raise ZeroDivisionError
    assert torch.get_num_threads() == 4
