"""Which attention kernel is chosen, and what it is given: FlashAttention-3, 2 or SDPA, with stand-ins for the modules.

pytest tests/network/test_attention.py (whole/test_cuda.py runs the real kernels where there is a GPU)
"""

from __future__ import annotations

import sys

import pytest
import torch
from flash import MODULES, installed, pretend_gpu

from pgolf_core.network import attention
from pgolf_core.network.attention import causal_attention, choose_kernel, kernel_name

BOTH = ("FlashAttention-3", "FlashAttention-2")
HOPPER, AMPERE, ADA, TURING, BLACKWELL = (9, 0), (8, 0), (8, 9), (7, 5), (10, 0)


def inputs(heads: int = 4, kv_heads: int = 2, length: int = 9, width: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, length, n, width) for n in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes]


# ---------------------------------------------------------------------- the choice


@pytest.mark.parametrize(
    ("present", "capability", "chosen"),
    [
        (BOTH, HOPPER, "FlashAttention-3"),
        (BOTH[:1], HOPPER, "FlashAttention-3"),
        (BOTH[1:], HOPPER, "FlashAttention-2"),
        ((), HOPPER, "SDPA"),
        (BOTH, AMPERE, "FlashAttention-2"),
        (BOTH, ADA, "FlashAttention-2"),
        (BOTH, BLACKWELL, "FlashAttention-2"),
        (BOTH[:1], AMPERE, "SDPA"),
        (BOTH, TURING, "SDPA"),
    ],
)
def test_the_fastest_kernel_that_is_installed_and_runs_on_the_gpu_is_chosen(
    monkeypatch, present: tuple[str, ...], capability: tuple[int, int], chosen: str
) -> None:
    pretend_gpu(monkeypatch, capability)
    with installed(monkeypatch, *present):
        assert choose_kernel("cuda", True)[0] == chosen
        assert choose_kernel("cuda", False) == ("SDPA", ""), "FlashAttention takes no float32"
        assert choose_kernel("cpu", True)[0] == "query blocks" and choose_kernel("cpu", False)[0] == "SDPA"


def test_a_kernel_that_is_not_installed_needs_no_word_about_it(monkeypatch) -> None:
    pretend_gpu(monkeypatch)
    with installed(monkeypatch):
        assert kernel_name("cuda", True) == "SDPA"
    with installed(monkeypatch, *BOTH):
        assert kernel_name("cuda", True) == "FlashAttention-3"


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so.12: cannot open shared object file\nand more"),
        OSError("undefined symbol: _ZN3c104cuda9SetDeviceEi"),
        RuntimeError("built for another torch"),
        ModuleNotFoundError("No module named 'flash_attn_config'", name="flash_attn_config"),
    ],
)
def test_a_module_that_does_not_import_is_passed_over_and_one_line_says_why(monkeypatch, error: Exception) -> None:
    class Broken:
        def find_spec(self, name, *_):
            if name == "flash_attn_interface":
                raise error

    pretend_gpu(monkeypatch)
    with installed(monkeypatch, "FlashAttention-2"):
        monkeypatch.delitem(sys.modules, "flash_attn_interface")
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
        reason = str(error).splitlines()[0]
        assert kernel_name("cuda", True) == f"FlashAttention-2 (flash_attn_interface does not import: {reason})"
        assert kernel_name("cuda", False) == "SDPA"


def test_a_module_without_its_function_is_passed_over_and_one_line_says_why(monkeypatch) -> None:
    pretend_gpu(monkeypatch)
    with installed(monkeypatch, "FlashAttention-2"):
        del sys.modules["flash_attn"].flash_attn_func
        assert "has no attribute 'flash_attn_func'" in kernel_name("cuda", True)
        assert kernel_name("cuda", True).startswith("SDPA (flash_attn does not import: ")


def test_a_kernel_that_torch_compile_could_not_trace_is_passed_over_and_one_line_says_why(monkeypatch) -> None:
    pretend_gpu(monkeypatch)
    with installed(monkeypatch, *BOTH):
        table = [(*row[:2], f"{row[2]}_of_old" if row[0] == BOTH[0] else row[2], row[3]) for row in attention.FLASH]
        monkeypatch.setattr(attention, "FLASH", table)
        assert kernel_name("cuda", True) == "FlashAttention-2 (flash_attn_interface is too old for torch.compile)"


@pytest.mark.parametrize(("width", "taken"), [(8, True), (64, True), (256, True), (20, False), (264, False)])
def test_a_head_width_that_flash_attention_does_not_take_goes_to_sdpa(monkeypatch, width: int, taken: bool) -> None:
    pretend_gpu(monkeypatch)
    with installed(monkeypatch, *BOTH):
        name = kernel_name("cuda", True, width)
    if taken:
        assert name == "FlashAttention-3"
    else:
        wants = f"takes head widths of 8, 16 … 256, not {width}"
        assert name == f"SDPA (FlashAttention-3 {wants}; FlashAttention-2 {wants})"


def test_a_kernel_for_another_gpu_is_named_with_this_ones_capability(monkeypatch) -> None:
    pretend_gpu(monkeypatch, AMPERE)
    with installed(monkeypatch, *BOTH):
        assert kernel_name("cuda", True) == (
            "FlashAttention-2 (FlashAttention-3 does not run on compute capability 8.0)"
        )


# ---------------------------------------------------------------------- the call


@pytest.mark.parametrize("returns_tuple", [False, True])
@pytest.mark.parametrize("name", BOTH)
def test_flash_attention_gets_the_layout_and_dtype_it_takes_and_its_output_is_ours(
    monkeypatch, name: str, returns_tuple: bool
) -> None:
    q, k, v = inputs()
    expected = causal_attention(q.float(), k.float(), v.float())
    with installed(monkeypatch, name, returns_tuple=returns_tuple):
        assert attention._flash_fault(name, *MODULES[name]) is None
        monkeypatch.setattr(attention, "choose_kernel", lambda *_: (name, ""))
        found = causal_attention(q, k, v)
        found.float().sum().backward()
    assert found.dtype is torch.bfloat16 and found.shape == q.shape
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    assert [x.grad.dtype for x in (q, k, v)] == [torch.bfloat16] * 3


def test_the_stand_in_refuses_what_the_real_kernels_refuse(monkeypatch) -> None:
    q, k, v = inputs()
    with installed(monkeypatch, "FlashAttention-3"):
        flash = sys.modules["flash_attn_interface"].flash_attn_func
        for refused in ((q.float(), k.float(), v.float()), (q.transpose(1, 2), k, v), (q[..., :4], k, v)):
            with pytest.raises(AssertionError):
                flash(*refused, causal=True)
        with pytest.raises(AssertionError):
            flash(q, k, v)


@pytest.mark.parametrize("returns_tuple", [False, True])
def test_flash_attention_stays_inside_one_compiled_graph(monkeypatch, returns_tuple: bool) -> None:
    def three_layers(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            q = causal_attention(q, k, v)
        return q

    q, k, v = inputs()
    asked = []

    def chosen(*question: object) -> tuple[str, str]:
        asked.append(question)
        attention._flash_fault("FlashAttention-3", *MODULES["FlashAttention-3"])  # imports while the graph is traced
        return "FlashAttention-3", ""

    chosen._dynamo_marked_constant = True  # as choose_kernel
    with installed(monkeypatch, "FlashAttention-3", returns_tuple=returns_tuple):
        monkeypatch.setattr(attention, "choose_kernel", chosen)
        torch._dynamo.reset()
        report = torch._dynamo.explain(three_layers)(q, k, v)
        assert (report.graph_count, report.graph_break_count) == (1, 0)
        calls = [str(node.target) for node in report.graphs[0].graph.nodes if "flash_attn" in str(node.target)]
        assert len(calls) == 3
        compiled = torch.compile(three_layers, backend="aot_eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(q, k, v), three_layers(q, k, v))
        compiled(q, k, v).float().sum().backward()
    assert asked[0] == ("cpu", True, 16) and q.grad.dtype is torch.bfloat16


def test_the_choice_is_a_constant_of_a_compiled_graph() -> None:
    assert choose_kernel._dynamo_marked_constant
    q, k, v = inputs()
    torch._dynamo.reset()
    report = torch._dynamo.explain(causal_attention)(q, k, v)
    assert (report.graph_count, report.graph_break_count) == (1, 0)
