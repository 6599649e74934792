"""The network: causality, normalisation, each switch against a plain version, initialisation, QAT in the forward."""

from __future__ import annotations

import math

import pytest
import torch
from small import small_recipe

from pgolf_core.network.attention import _blocked, _sdpa, exclude_self, kernel_name, rotary_base, rotary_tables, rotate
from pgolf_core.network.grid import GRIDS
from pgolf_core.network.model import GPT, SmearGate, build_model, num_parameters, parameter_shapes


def scrambled(**changes) -> GPT:
    """A small model whose zero and one initialisations are replaced by noise, so that every part matters."""
    model = build_model(small_recipe(model=changes).model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


SWITCHES = [
    {},
    {"smear": "before"},
    {"smear": "off", "bigram_rows": 0},
    {"ve_dim": 8, "ve_layers": [1, 2]},
    {"num_layers": 4, "xsa_last_n": 4},
    {"num_layers": 1, "xsa_last_n": 0, "rope_dims": 16, "ln_scale": False},
]


@pytest.mark.parametrize("changes", SWITCHES)
def test_changing_a_token_leaves_earlier_logits_bit_identical(changes: dict) -> None:
    model = scrambled(**changes).eval()
    ids = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(2))
    other = ids.clone()
    other[:, 13] = (other[:, 13] + 1) % 64
    with torch.no_grad():
        before, after = model.logits(ids), model.logits(other)
    assert torch.equal(before[:, :13], after[:, :13])
    assert not torch.equal(before[:, 13:], after[:, 13:])


@pytest.mark.parametrize("changes", SWITCHES)
def test_every_parameter_that_is_used_gets_a_gradient(changes: dict) -> None:
    model = scrambled(**changes)
    ids = torch.randint(64, (2, 21), generator=torch.Generator().manual_seed(2))
    model(ids[:, :-1], ids[:, 1:]).backward()
    used = [(name, p) for name, p in model.named_parameters() if p.numel()]
    silent = {name for name, p in used if p.grad is None or not p.grad.abs().any()}
    assert silent == set()


def test_logits_from_a_later_position_are_the_same_numbers() -> None:
    model = scrambled().eval()
    ids = torch.randint(64, (3, 17))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids, first=11), model.logits(ids)[:, 11:], atol=1e-5, rtol=1e-5)
        losses = model.token_losses(ids[:, :-1], ids[:, 1:])
        torch.testing.assert_close(losses.mean(), model(ids[:, :-1], ids[:, 1:]))
        probabilities = model.logits(ids).double().softmax(-1).sum(-1)
    torch.testing.assert_close(probabilities, torch.ones_like(probabilities))


def test_a_fresh_model_is_uniform_and_a_seed_decides_it() -> None:
    config = small_recipe().model
    model = build_model(config, 5)
    ids = torch.randint(64, (4, 17))
    assert abs(model(ids[:, :-1], ids[:, 1:]).item() - math.log(64)) < 0.02
    twin, other = build_model(config, 5), build_model(config, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not torch.equal(model.tok_emb.weight, other.tok_emb.weight)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_model(small_recipe().model, 9)
    assert torch.equal(torch.rand(2), expected)


def test_initial_matrices_are_orthogonal_or_zero() -> None:
    model = build_model(small_recipe().model, 0)
    block = model.blocks[1]
    for weight in (block.attn.c_q.weight, block.attn.c_k.weight, block.mlp.fc.weight.T):
        torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)
    assert not block.attn.proj.weight.any() and not block.mlp.proj.weight.any() and not model.bigram.embed.weight.any()
    bigram = model.bigram.proj.weight
    torch.testing.assert_close(bigram.T @ bigram, torch.eye(8) / (2 * 3), atol=1e-5, rtol=0)


def test_shapes_and_counts_agree_without_allocation() -> None:
    config = small_recipe(model={"ve_dim": 8, "ve_layers": [0]}).model
    shapes = {name: tuple(p.shape) for name, p in GPT(config).named_parameters()}
    assert parameter_shapes(config) == shapes
    assert num_parameters(config) == sum(math.prod(shape) for shape in shapes.values())


def test_smear_of_the_first_position_has_no_predecessor() -> None:
    smear = SmearGate(4)
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(smear(x)[:, 0], 0.5 * x[:, 0])
    torch.testing.assert_close(smear(x)[:, 2], 0.5 * (x[:, 2] + x[:, 1]))


def test_rotation_keeps_norms_and_depends_on_distance_alone() -> None:
    cos, sin = rotary_tables(40, 8, 10000.0, 0, torch.device("cpu"))
    q, k = torch.randn(16).expand(1, 40, 1, 16), torch.randn(16).expand(1, 40, 1, 16)
    turned_q, turned_k = rotate(q, cos, sin), rotate(k, cos, sin)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(turned_q[..., 8:], q[..., 8:])
    scores = torch.einsum("bthd,bshd->ts", turned_q, turned_k)
    for distance in (0, 3, 11):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[0].expand_as(diagonal), atol=1e-3, rtol=1e-4)


def test_rotary_base_is_rescaled_only_above_the_reference_length() -> None:
    assert rotary_base(1024, 16, 10000.0, 1024) == 10000.0
    assert rotary_base(2048, 16, 10000.0, 0) == 10000.0
    assert abs(rotary_base(2048, 16, 10000.0, 1024) - 22081.79) < 0.01


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Double loop over sequences and heads, written for reading."""
    out = torch.empty_like(q)
    group, future = q.size(2) // k.size(2), torch.ones(q.size(1), q.size(1)).triu(1).bool()
    for b in range(q.size(0)):
        for h in range(q.size(2)):
            scores = q[b, :, h] @ k[b, :, h // group].T / math.sqrt(q.size(-1))
            out[b, :, h] = scores.masked_fill(future, -math.inf).softmax(-1) @ v[b, :, h // group]
    return out


@pytest.mark.parametrize("length", [1, 7, 128, 129, 300])
@pytest.mark.parametrize("kernel", [_sdpa, _blocked])
def test_attention_kernels_equal_the_plain_double_loop(kernel, length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, length, heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    expected = plain_attention(q, k, v)
    found = kernel(q, k, v)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    weight = torch.randn(found.shape, generator=generator)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_exclusive_attention_is_orthogonal_to_the_own_value() -> None:
    y, v = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8)
    left = exclude_self(y, v)
    dots = (left * v.repeat_interleave(2, dim=2)).sum(-1)
    assert dots.abs().max() < 1e-5
    assert exclude_self(v, v).abs().max() < 1e-6  # position 0 attends only to itself


def test_cpu_in_bfloat16_uses_query_blocks_and_float32_uses_sdpa() -> None:
    assert kernel_name("cpu", True) == "query blocks" and kernel_name("cpu", False) == "SDPA"


def test_attention_maps_are_those_of_the_forward_pass() -> None:
    model = scrambled().eval()
    ids = torch.randint(64, (1, 12))
    weights = model.attention_maps(ids, 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 12))
    captured = {}
    model.blocks[2].attn.proj.register_forward_pre_hook(lambda _, args: captured.update(y=args[0]))
    model.blocks[2].attn.c_v.register_forward_hook(lambda _, args, out: captured.update(v=out))
    with torch.no_grad():
        model.logits(ids)
    v = captured["v"].unflatten(-1, (1, -1))
    y = torch.einsum("bhts,bsd->bthd", weights, v[:, :, 0])
    torch.testing.assert_close(exclude_self(y, v).flatten(2), captured["y"], atol=1e-5, rtol=1e-4)


def test_qat_is_live_in_training_eager_and_compiled_and_gradients_pass_through() -> None:
    model = scrambled()
    ids = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(3))
    names = [name for name in parameter_shapes(model.config) if ".attn.c_" in name or ".mlp." in name]
    compiled = torch.compile(model, dynamic=False, backend="aot_eager")

    def losses() -> tuple[float, float]:
        return model(ids[:, :-1], ids[:, 1:]).item(), compiled(ids[:, :-1], ids[:, 1:]).item()

    model.train()
    off = losses()
    assert model.set_fake_grids({name: GRIDS["int5_row_clip"] for name in names}) == len(names)
    on = losses()
    assert abs(on[0] - on[1]) < 1e-4 and abs(off[0] - off[1]) < 1e-4
    assert abs(on[0] - off[0]) > 1e-4
    model(ids[:, :-1], ids[:, 1:]).backward()
    assert all(model.get_parameter(name).grad.abs().any() for name in names)
    model.eval()
    assert abs(losses()[0] - off[0]) < 1e-4, "evaluation sees the weights as they are"
