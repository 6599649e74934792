"""Attention's arithmetic; which kernel is chosen, and what it is given: FlashAttention-3, 2 or SDPA, with stand-ins."""

import sys
from types import SimpleNamespace

import pytest
import torch
from flash import MODULES, installed, plain_attention, pretend_gpu

from pgolf_core.network import attention

BOTH = ("FlashAttention-3", "FlashAttention-2")
HOPPER, AMPERE, ADA, TURING, BLACKWELL = (9, 0), (8, 0), (8, 9), (7, 5), (10, 0)


def inputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 9, heads, 16, generator=generator).bfloat16().requires_grad_() for heads in (4, 2, 2)]


def test_rotation_keeps_norms_and_depends_on_distance_alone() -> None:
    cos, sin = attention.rotary_tables(40, 8, 10000.0, 0, torch.device("cpu"))
    q, k = torch.randn(16).expand(1, 40, 1, 16), torch.randn(16).expand(1, 40, 1, 16)
    turned_q, turned_k = attention.rotate(q, cos, sin), attention.rotate(k, cos, sin)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(turned_q[..., 8:], q[..., 8:])
    scores = torch.einsum("bthd,bshd->ts", turned_q, turned_k)
    for distance in (0, 3, 11):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[0].expand_as(diagonal), atol=1e-3, rtol=1e-4)


def test_rotary_base_is_rescaled_only_above_the_reference_length() -> None:
    assert attention.rotary_base(1024, 16, 10000.0, 1024) == 10000.0
    assert attention.rotary_base(2048, 16, 10000.0, 0) == 10000.0
    assert abs(attention.rotary_base(2048, 16, 10000.0, 1024) - 22081.79) < 0.01


@pytest.mark.parametrize("length", [1, 7, 128, 129, 300])
@pytest.mark.parametrize("kernel", [attention.sdpa, attention._blocked])
def test_attention_kernels_equal_the_plain_formulas(kernel, length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, length, heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    expected, found = plain_attention(q, k, v)[0], kernel(q, k, v)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    weight = torch.randn(found.shape, generator=generator)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("last", [1, 8, 64, 131, 300])
@pytest.mark.parametrize("kernel", [attention.sdpa, attention._blocked])
def test_queries_of_the_last_positions_alone_give_the_same_numbers(kernel, last: int) -> None:
    q, k, v = (torch.randn(2, 300, heads, 8, generator=torch.Generator().manual_seed(last)) for heads in (4, 2, 2))
    torch.testing.assert_close(kernel(q[:, -last:], k, v), kernel(q, k, v)[:, -last:], atol=1e-6, rtol=1e-5)


def test_exclusive_attention_is_orthogonal_to_the_own_value() -> None:
    y, v = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8)
    assert (attention.exclude_self(y, v) * v.repeat_interleave(2, dim=2)).sum(-1).abs().max() < 1e-5
    assert attention.exclude_self(v, v).abs().max() < 1e-6  # position 0 attends only to itself


@pytest.mark.parametrize(
    ("present", "capability", "width", "chosen"),
    [
        (BOTH, HOPPER, 64, "FlashAttention-3"),
        (BOTH, HOPPER, 8, "FlashAttention-3"),
        (BOTH, HOPPER, 256, "FlashAttention-3"),
        (BOTH, HOPPER, 20, "SDPA (FlashAttention-3 {wants}; FlashAttention-2 {wants})"),
        (BOTH, HOPPER, 264, "SDPA (FlashAttention-3 {wants}; FlashAttention-2 {wants})"),
        (BOTH[:1], HOPPER, 64, "FlashAttention-3"),
        (BOTH[1:], HOPPER, 64, "FlashAttention-2"),
        ((), HOPPER, 64, "SDPA"),  # what is not installed needs no word
        (BOTH, AMPERE, 64, "FlashAttention-2 (FlashAttention-3 does not run on compute capability 8.0)"),
        (BOTH[1:], ADA, 64, "FlashAttention-2"),
        (BOTH[1:], BLACKWELL, 64, "FlashAttention-2"),
        (BOTH[:1], AMPERE, 64, "SDPA (FlashAttention-3 does not run on compute capability 8.0)"),
        (BOTH[1:], TURING, 64, "SDPA (FlashAttention-2 does not run on compute capability 7.5)"),
    ],
)
def test_the_fastest_kernel_that_is_installed_and_runs_is_chosen(monkeypatch, present, capability, width, chosen):
    pretend_gpu(monkeypatch, capability)
    with installed(monkeypatch, *present):
        name = attention.kernel_name("cuda", True, width)
        assert name == chosen.format(wants=f"takes head widths of 8, 16 … 256, not {width}")
        assert attention.choose_kernel("cuda", False) == ("SDPA", ""), "FlashAttention takes no float32"
        assert attention.kernel_name("cpu", True) == "query blocks" and attention.kernel_name("cpu", False) == "SDPA"


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcudart.so.12: cannot open shared object file\nand more"),
        RuntimeError("built for another torch"),
        ModuleNotFoundError("No module named 'flash_attn_config'", name="flash_attn_config"),
    ],
)
def test_a_module_that_does_not_import_is_passed_over_and_one_line_says_why(monkeypatch, error: Exception) -> None:
    def find_spec(name: str, *_: object) -> None:
        if name == "flash_attn_interface":
            raise error

    pretend_gpu(monkeypatch)
    with installed(monkeypatch, "FlashAttention-2"):
        monkeypatch.delitem(sys.modules, "flash_attn_interface")
        monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find_spec), *sys.meta_path])
        reason = str(error).splitlines()[0]
        name = f"FlashAttention-2 (flash_attn_interface does not import: {reason})"
        assert attention.kernel_name("cuda", True) == name
        assert attention.kernel_name("cuda", False) == "SDPA"


def test_a_module_without_its_function_or_of_old_is_passed_over_and_one_line_says_why(monkeypatch) -> None:
    pretend_gpu(monkeypatch)
    with installed(monkeypatch, BOTH[1]):
        del sys.modules["flash_attn"].flash_attn_func
        name = attention.kernel_name("cuda", True)
        assert name.startswith("SDPA (flash_attn does not import: ") and "no attribute 'flash_attn_func'" in name
    with installed(monkeypatch, *BOTH):
        old = [(*row[:2], f"{row[2]}_of_old", row[3]) for row in attention.FLASH if row[0] == BOTH[0]]
        monkeypatch.setattr(attention, "FLASH", [*old, *(row for row in attention.FLASH if row[0] != BOTH[0])])
        name = "FlashAttention-2 (flash_attn_interface is too old for torch.compile)"
        assert attention.kernel_name("cuda", True) == name


@pytest.mark.parametrize("returns_tuple", [False, True])
@pytest.mark.parametrize("name", BOTH)
def test_flash_attention_gets_the_layout_and_dtype_it_takes_and_its_output_is_ours(monkeypatch, name, returns_tuple):
    q, k, v = inputs()
    expected = attention.causal_attention(q.float(), k.float(), v.float())
    with installed(monkeypatch, name, returns_tuple=returns_tuple):
        assert attention._flash_fault(name, *MODULES[name]) is None
        monkeypatch.setattr(attention, "choose_kernel", lambda *_: (name, ""))
        found = attention.causal_attention(q, k, v)
        found.float().sum().backward()
    assert found.dtype is torch.bfloat16 and found.shape == q.shape
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    assert [x.grad.dtype for x in (q, k, v)] == [torch.bfloat16] * 3


def test_flash_attention_stays_inside_one_compiled_graph_of_which_the_choice_is_a_constant(monkeypatch) -> None:
    def three_layers(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            q = attention.causal_attention(q, k, v)
        return q

    q, k, v = inputs()
    asked = []

    def chosen(*question: object) -> tuple[str, str]:
        asked.append(question)
        attention._flash_fault(BOTH[0], *MODULES[BOTH[0]])  # imports while the graph is traced
        return BOTH[0], ""

    assert attention.choose_kernel._dynamo_marked_constant
    chosen._dynamo_marked_constant = True
    with installed(monkeypatch, BOTH[0], returns_tuple=True):
        monkeypatch.setattr(attention, "choose_kernel", chosen)
        torch._dynamo.reset()
        report = torch._dynamo.explain(three_layers)(q, k, v)
        assert (report.graph_count, report.graph_break_count) == (1, 0)
        assert sum("flash_attn" in str(node.target) for node in report.graphs[0].graph.nodes) == 3
        compiled = torch.compile(three_layers, backend="aot_eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(q, k, v), three_layers(q, k, v))
        compiled(q, k, v).float().sum().backward()
    assert asked[0] == ("cpu", True, 16) and q.grad.dtype is torch.bfloat16
