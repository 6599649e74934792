"""Gates, lanes and caps that some networks have: how they start, what they mask, and where they are nothing new."""

import math

import pytest
import torch
from small import noisy_model, small_recipe

from pgolf_core.network.documents import own_documents
from pgolf_core.network.model import GPT, build_model, parameter_shapes

ALL = {"smear": "window", "gate_window": 6, "attn_gate": "sparse", "attn_gate_scale": 0.5, "lanes": 2,
       "parallel_start": 2, "skip_gates": True, "softcaps": "two", "bigram_rows": 0}  # fmt: skip


def test_names_and_shapes_are_the_records_and_fresh_gates_are_shut_half_open_or_one() -> None:
    shapes, plain = (parameter_shapes(small_recipe(model=changes).model) for changes in (ALL, {"bigram_rows": 0}))
    new = {"smear_gate.weight": (1, 6), "smear_lambda": (1,), "parallel_post_lambdas": (3, 2, 2), "softcap_pos": (),
           "parallel_resid_lambdas": (3, 2), "softcap_neg": (), "skip_gates": (1, 32),
           **{f"blocks.{layer}.attn.attn_gate_w": (2, 6) for layer in range(3)}}  # fmt: skip
    assert {name: shape for name, shape in shapes.items() if name not in plain} == new
    assert [*(plain.keys() - shapes.keys())] == ["smear.gate"]
    fresh = dict(build_model(small_recipe(model=ALL).model, 0).named_parameters())
    values = {"parallel_post_lambdas": 1.0, "parallel_resid_lambdas": 1.1, "softcap_pos": 30.0, "softcap_neg": 30.0}
    for name, shape in new.items():
        assert torch.equal(fresh[name].detach(), torch.full(shape, values.get(name, 0.0))), name


def network(**changes) -> GPT:
    return noisy_model(0.3, 2, **{**ALL, **changes}).eval()


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
def test_with_the_mask_a_document_is_untouched_by_the_one_before_and_without_it_its_last_token_leaks(masked) -> None:
    model = network(smear_bos_mask=masked)
    ids = torch.randint(2, 64, (1, 30), generator=torch.Generator().manual_seed(0))
    ids[0, [0, 12, 20]] = 1
    other = ids.clone()
    other[0, 11] = 5 if ids[0, 11] != 5 else 6
    before, after = (model.logits(x, segments=own_documents(x))[0] for x in (ids, other))
    changed = (before != after).any(-1)
    assert changed[11] and not changed[:11].any() and not changed[20:].any()
    assert changed[12:20].all() == (not masked) and changed[12:20].any() == (not masked)
    assert (model.embed(ids) != model.embed(other)).any(-1)[0].nonzero().flatten().tolist() == [11, 12][: 2 - masked]


@torch.no_grad()
def test_shut_or_open_gates_are_no_gates() -> None:
    ids = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(0))
    model = network(lanes=1, softcaps="one")
    plain = GPT(small_recipe(model={**ALL, "smear": "off", "attn_gate": "off", "lanes": 1, "softcaps": "one"}).model)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "gate_w" not in k and "smear" not in k})
    model.smear_lambda.zero_()
    for block in model.blocks:
        block.attn.attn_gate_w.zero_()  # a half
        block.attn.proj.weight.mul_(2)
    torch.testing.assert_close(model.logits(ids), plain.logits(ids))


@torch.no_grad()
def test_two_lanes_of_equal_parts_are_one_stream_with_a_parallel_block() -> None:
    """The last of three blocks has no skip; without a mix of the first stream both halves read the same."""
    ids = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(0))
    model = network()
    model.parallel_post_lambdas.fill_(1.0)
    model.parallel_resid_lambdas.fill_(1.0)
    model.blocks[2].resid_mix.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 32))
    one = GPT(small_recipe(model={**ALL, "lanes": 1}).model)
    one.load_state_dict({name: value for name, value in model.state_dict().items() if "lambdas" not in name})
    torch.testing.assert_close(model.logits(ids), one.logits(ids))
    model.parallel_post_lambdas[2, 1, 0] = 0.5  # half of what the MLP adds to attention's lane
    assert (model.logits(ids) - one.logits(ids)).abs().max() > 1e-3


def test_a_cap_for_each_sign_bounds_its_own_side_and_equal_caps_are_one_cap() -> None:
    model, logits = network(softcaps="two"), torch.linspace(-100.0, 100.0, 401, requires_grad=True)
    model.softcap_pos.data.fill_(2.0)
    model.softcap_neg.data.fill_(5.0)
    capped = model.capped(logits)
    assert (capped.min().item(), capped.max().item()) == (pytest.approx(-5.0), pytest.approx(2.0))
    assert (capped.diff() >= 0).all()
    (slope,) = torch.autograd.grad(capped[200], logits)
    assert slope[200] == 1.0
    model.softcap_neg.data.fill_(2.0)
    one = network(softcaps="one", logit_softcap=2.0)
    torch.testing.assert_close(model.capped(logits), one.capped(logits))
    torch.testing.assert_close(one.capped(logits), 2 * torch.tanh(logits / 2))


def test_inert_caps_change_nothing_and_get_no_gradient() -> None:
    ids = torch.randint(64, (2, 18), generator=torch.Generator().manual_seed(0))
    model = network(softcaps="two_inert")
    with torch.no_grad():
        before = model(ids[:, :-1], ids[:, 1:])
        model.softcap_pos.fill_(math.nan)
    loss = model(ids[:, :-1], ids[:, 1:])
    assert torch.equal(loss.detach(), before)
    loss.backward()
    assert model.softcap_pos.grad is None and model.softcap_neg.grad is None
