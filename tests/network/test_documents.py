"""Attention inside documents: every way of computing it against one masked matrix, and whole networks packed."""

import pytest
import torch
import torch.nn.functional as F
from flash import MODULES, installed, plain_attention, pretend_gpu
from small import noisy_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pgolf_core.lab.bench.plain import plain_logits
from pgolf_core.network import attention, documents
from pgolf_core.network.documents import document_attention, own_documents

CASES = {  # rows, positions, where documents start
    "packed": (1, 41, [0, 1, 2, 9, 33]),
    "one document": (1, 20, [0]),
    "single tokens": (1, 4, [0, 1, 2, 3]),
    "several rows": (3, 10, [0, 4, 10, 20, 29]),
}
RECORD = {"smear": "window", "attn_gate": "sparse", "lanes": 2, "parallel_start": 3, "num_layers": 4, "xsa_last_n": 4,
          "num_loops": 1, "loop_start": 1, "loop_end": 1, "bigram_rows": 0, "negative_slope": 0.5}  # fmt: skip


def bounds(rows: int, length: int, starts: list[int], more: int = 0) -> torch.Tensor:
    return torch.tensor([*starts, *[rows * length] * (1 + more)], dtype=torch.int32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("way", [document_attention, documents._masked])
def test_each_way_is_one_masked_matrix_whatever_fills_the_bounds_up(way, case) -> None:
    rows, length, starts = case
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(rows, length, heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    expected, _ = plain_attention(q, k, v, tuple(starts))
    weight = torch.randn(q.shape, generator=generator)
    wanted = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for more in (0, 5):
        found = way(q, k, v, bounds(*case, more))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        for a, b in zip(torch.autograd.grad((found * weight).sum(), (q, k, v)), wanted, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("returns_tuple", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_flash_attention_gets_flat_documents_and_the_longest_ones_length(monkeypatch, name, returns_tuple) -> None:
    rows, length, starts = CASES["several rows"]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(rows, length, heads, 16, generator=generator).bfloat16() for heads in (4, 2, 2))
    expected, _ = plain_attention(q.float(), k.float(), v.float(), tuple(starts))
    with installed(monkeypatch, name, returns_tuple=returns_tuple):
        assert attention._flash_fault(name, *MODULES[name]) is None
        monkeypatch.setattr(documents, "choose_kernel", lambda *_: (name, ""))
        for longest in (0, 10):
            found = document_attention(q, k, v, bounds(rows, length, starts, 3), longest)
            torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
        with pytest.raises(AssertionError):
            document_attention(q, k, v, bounds(rows, length, starts), 9)  # what the stand-in holds a caller to


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.called.append((func.name(), args))
        return func(*args, **(kwargs or {}))


def test_on_cuda_without_flash_attention_torchs_own_varlen_kernel_attends(monkeypatch) -> None:
    """On fake tensors, which know what operations return: the real function, given what it takes."""
    import torch.nn.attention.varlen  # before a CUDA device is pretended

    with FakeTensorMode(), torch.device("cuda:0"):
        q, k, v = (torch.empty(1, 4096, heads, 64, dtype=torch.bfloat16) for heads in (8, 4, 4))
        starts = torch.empty(65, dtype=torch.int32)
        pretend_gpu(monkeypatch)
        with installed(monkeypatch), Operators() as seen:
            found = document_attention(q, k, v, starts, 2048)
    assert found.shape == q.shape and found.dtype is q.dtype and found.device.type == "cuda"
    (given,) = (args for name, args in seen.called if name == "torch_attn::_varlen_attn")
    assert [tuple(x.shape) for x in given[:5]] == [(4096, 8, 64), (4096, 4, 64), (4096, 4, 64), (65,), (65,)]
    assert given[5:8] == (2048, 2048, True), "the longest document's tokens, and a causal mask"


def test_documents_of_a_window_start_with_it_and_at_each_bos() -> None:
    ids = torch.tensor([[5, 1, 7, 1], [1, 1, 9, 9], [2, 3, 4, 5]])
    found = own_documents(ids)
    assert found.tolist() == [0, 1, 3, 4, 5, 8, 12] and found.dtype is torch.int32
    assert own_documents(torch.full((1, 3), 7)).tolist() == [0, 3]


@torch.no_grad()
def test_a_token_of_one_document_changes_no_bit_of_another_ones_logits_and_dense_rows_do_change() -> None:
    model = noisy_model(0.2, 1, **RECORD).eval()
    ids = torch.randint(2, 64, (2, 40), generator=torch.Generator().manual_seed(0))
    ids[0, [9, 10, 30]] = ids[1, 21] = 1
    starts = own_documents(ids)
    spans = list(zip(starts.tolist(), starts.tolist()[1:], strict=False))
    before, dense = model.logits(ids, segments=starts).flatten(0, 1), model.logits(ids)
    assert len(spans) == 6
    for start, end in spans:
        other = ids.clone().flatten()
        other[end - 1] = 1 if end - start == 1 else (other[end - 1] - 1) % 62 + 2  # keeps where documents start
        changed = (model.logits(other.view_as(ids), segments=starts).flatten(0, 1) != before).any(-1)
        outside = torch.ones_like(changed)
        outside[start:end] = False
        assert not changed[outside].any() and changed[end - 1] == (end - start > 1)
    apart = (dense.flatten(0, 1) - before).abs().amax(-1) > 1e-4
    assert apart.nonzero().flatten().tolist()[0] == 9


def test_packed_losses_and_gradients_are_the_plain_versions_eager_and_as_one_graph() -> None:
    model = noisy_model(0.2, 1, **RECORD)
    ids = torch.randint(2, 64, (2, 34), generator=torch.Generator().manual_seed(3))
    ids[0, [4, 5, 20]] = ids[1, 31] = 1
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    starts, weights = own_documents(inputs), dict(model.named_parameters())
    expected = F.cross_entropy(plain_logits(weights, model.config, inputs, starts).flatten(0, 1), targets.flatten())
    wanted = torch.autograd.grad(expected, list(weights.values()))
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False, fullgraph=True, backend="eager")
    assert abs(model(inputs, targets) - expected) > 1e-3
    for one in (model, compiled):
        loss = one(inputs, targets, starts, 33)
        torch.testing.assert_close(loss, expected, atol=2e-5, rtol=0)
        for found, right in zip(torch.autograd.grad(loss, list(weights.values())), wanted, strict=True):
            assert (found - right).norm() <= 1e-3 * right.norm() + 1e-7
    torch.testing.assert_close(model.token_losses(inputs, targets, segments=starts).mean(), expected, atol=2e-5, rtol=0)
