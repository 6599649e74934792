"""The network: causality, normalisation, each switch against a plain version, initialisation, QAT in the forward."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from small import noisy_model, small_recipe

from pgolf_core.lab.bench.plain import plain_logits
from pgolf_core.network.grid import GRIDS
from pgolf_core.network.model import GPT, SmearGate, build_model, layer_order, num_parameters, parameter_shapes

SWITCHES = [
    {},
    {"smear": "before"},
    {"smear": "off", "bigram_rows": 0},
    {"ve_dim": 8, "ve_layers": [1, 2]},
    {"num_layers": 4, "xsa_last_n": 4},
    {"num_layers": 1, "xsa_last_n": 0, "rope_dims": 16, "ln_scale": False},
    {"num_loops": 2, "loop_start": 1, "loop_end": 2, "skip_gates": True, "parallel_start": 2, "negative_slope": 0.5},
    {"smear": "window", "gate_window": 5, "attn_gate": "sparse", "lanes": 2, "parallel_start": 1, "softcaps": "two"},
]


@pytest.mark.parametrize("changes", SWITCHES)
def test_changing_a_token_leaves_earlier_logits_bit_identical_and_every_parameter_is_used(changes: dict) -> None:
    model = noisy_model(0.2, 1, **changes).eval()
    ids = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(2))
    other = ids.clone()
    other[:, 13] = (other[:, 13] + 1) % 64
    with torch.no_grad():
        before, after = model.logits(ids), model.logits(other)
    assert torch.equal(before[:, :13], after[:, :13])
    assert not torch.equal(before[:, 13:], after[:, 13:])
    model(ids[:, :-1], ids[:, 1:]).backward()
    silent = [name for name, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())]
    assert silent == []


@pytest.mark.parametrize(
    ("shape", "off", "on"),
    [
        ((11, 2, 3, 5), ([*range(5)], [*range(5, 11)]), ([*range(6), 3, 4], [5, 3, 4, *range(5, 11)])),
        ((5, 2, 2, 2), ([0, 1], [2, 3, 4]), ([0, 1, 2], [2, 2, 3, 4])),
        ((2, 1, 0, 1), ([0], [1]), ([0, 1], [0, 1])),
        ((1, 3, 0, 0), ([], [0]), ([0, 0], [0, 0])),
        ((4, 0, 1, 2), ([0, 1], [2, 3]), ([0, 1], [2, 3])),
    ],
)
def test_a_loop_stands_several_times_in_the_order_and_the_whole_is_cut_in_half(shape: tuple, off, on) -> None:
    keys = ("num_layers", "num_loops", "loop_start", "loop_end")
    config = small_recipe(model={"xsa_last_n": 0, **dict(zip(keys, shape, strict=True))}).model
    assert (layer_order(config, looping=False), layer_order(config)) == (off, on)
    assert parameter_shapes(config)["skip_weights"] == (min(map(len, on)), 32)


PARTS = [
    {"negative_slope": 0.5},
    {"num_layers": 4, "skip_gates": True},
    {"parallel_start": 1},
    {"num_layers": 3, "num_loops": 2, "loop_start": 0, "loop_end": 1},
    {"num_layers": 3, "num_loops": 3, "loop_start": 1, "loop_end": 1, "ve_dim": 8, "ve_layers": [1], "xsa_last_n": 2},
    {"smear": "window", "bigram_rows": 0},
    {"smear": "window", "smear_bos_mask": False, "gate_window": 32},
    {"attn_gate": "sparse", "attn_gate_scale": 0.5, "gate_window": 3},
    {"num_layers": 4, "lanes": 2, "parallel_start": 2, "skip_gates": True},
    {"num_layers": 4, "lanes": 2, "parallel_start": 3, "num_loops": 2, "loop_start": 1, "loop_end": 2, "ve_dim": 8,
     "ve_layers": [3]},
    {"softcaps": "two", "logit_softcap": 2.0},
    SWITCHES[-2] | {"num_layers": 4},
    SWITCHES[-1] | {"num_layers": 3, "parallel_start": 2},
]  # fmt: skip


@pytest.mark.parametrize("changes", PARTS)
def test_each_part_is_the_plain_version_eager_and_compiled_and_its_loop_can_be_switched(changes: dict) -> None:
    """Against the network written one operation after another, from the papers alone; both graphs of a loop."""
    model = noisy_model(0.2, 1, **{"num_layers": 2} | changes)
    ids = torch.randint(64, (2, 21), generator=torch.Generator().manual_seed(3))
    ids[:, 7] = 1  # begins a document
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False, fullgraph=True, backend="eager")
    without, weights = dataclasses.replace(model.config, num_loops=0), dict(model.named_parameters())
    off, on = (F.cross_entropy(plain_logits(weights, config, inputs).flatten(0, 1), targets.flatten())
               for config in (without, model.config))  # fmt: skip
    assert ((on - off).abs() > 1e-4) == bool(model.config.num_loops)
    graphs = (False, True, False) if model.config.num_loops else (True,)
    for model.looping in graphs:
        losses = [one(inputs, targets) for one in (model, compiled)]
        torch.testing.assert_close(losses, 2 * [on if model.looping else off], atol=2e-5, rtol=0)
        for loss in losses:
            gradients = [torch.autograd.grad(one, list(model.parameters()), allow_unused=True, retain_graph=True)
                         for one in (loss, on if model.looping else off)]  # fmt: skip
            for found, expected in zip(*gradients, strict=True):
                assert (found is None) == (expected is None)
                assert found is None or (found - expected).norm() <= 1e-3 * expected.norm() + 1e-7


def test_a_fresh_gate_blends_equal_parts_and_a_far_open_one_leaves_the_stream_alone() -> None:
    model, ids = noisy_model(0.2, 1, skip_gates=True), torch.randint(64, (1, 9))
    with torch.no_grad():
        model.skip_gates.zero_()
        encoder = model.blocks[0](*model.trunk(ids, stop=0), *model.rotary(9, ids.device), None)
        torch.testing.assert_close(model.trunk(ids, stop=1)[0], (encoder + model.skip_weights[0] * encoder) / 2)
        model.skip_gates.fill_(40.0)
        torch.testing.assert_close(model.trunk(ids, stop=1)[0], encoder)
    assert build_model(model.config, 0).skip_gates.count_nonzero() == 0


@pytest.mark.parametrize("changes", [*SWITCHES, {"num_layers": 4, "lanes": 2, "parallel_start": 2}])
def test_logits_from_a_later_position_are_the_same_numbers(changes: dict) -> None:
    """Though the last block computes queries, outputs and MLP from there on alone."""
    model = noisy_model(0.2, 1, **changes).eval()
    ids, rows = torch.randint(64, (3, 17)), []
    model.blocks[-1].mlp.register_forward_hook(lambda _, inputs, output: rows.append(output.size(1)))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(ids, first=11), model.logits(ids)[:, 11:], atol=1e-5, rtol=1e-5)
        assert rows[-1] == 17 and 6 in rows
        losses = model.token_losses(ids[:, :-1], ids[:, 1:])
        torch.testing.assert_close(losses.mean(), model(ids[:, :-1], ids[:, 1:]))
        longer = torch.randint(64, (3, 41))  # 120 targets, 64 at a time
        losses = model.token_losses(longer[:, :-1], longer[:, 1:])
        plain = torch.nn.functional.cross_entropy(model.logits(longer[:, :-1]).mT, longer[:, 1:], reduction="none")
        torch.testing.assert_close(losses, plain)
        probabilities = model.logits(ids).double().softmax(-1).sum(-1)
    torch.testing.assert_close(probabilities, torch.ones_like(probabilities))


def test_a_fresh_model_is_uniform_and_a_seed_decides_it() -> None:
    config, before = small_recipe().model, torch.get_rng_state()
    model, twin, other = (build_model(config, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    ids = torch.randint(64, (4, 17))
    assert abs(model(ids[:, :-1], ids[:, 1:]).item() - math.log(64)) < 0.02
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not torch.equal(model.tok_emb.weight, other.tok_emb.weight)


def test_the_starting_weights_do_not_depend_on_the_number_of_threads() -> None:
    config = small_recipe(model={"model_dim": 128, "mlp_hidden": 384}).model
    before, models = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        models.append(build_model(config, 5))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


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


@pytest.mark.parametrize("table", ["bigram", "ve"])
def test_table_dropout_takes_a_table_from_a_share_of_positions_in_training_and_scales_the_rest_up(table: str) -> None:
    model, plain = (noisy_model(0.2, 1, ve_dim=8, ve_layers=[1], table_dropout=share) for share in (0.25, 0.0))
    ids = torch.randint(64, (16, 250), generator=torch.Generator().manual_seed(2))
    whole = getattr(plain, table)(ids, torch.float32)
    torch.manual_seed(7)
    left = model.dropped(whole)
    is_left = left.abs().sum(-1) > 0
    assert 0.22 < 1 - is_left.float().mean() < 0.28, "4,000 positions, each by itself"
    torch.testing.assert_close(left[is_left], whole[is_left] / 0.75)
    assert model.eval().dropped(whole) is not None and torch.equal(model.dropped(whole), whole), "scores have it all"
    assert plain.train().dropped(whole) is whole


def test_table_dropout_draws_for_each_table_by_itself_and_by_the_seed_alone() -> None:
    model = noisy_model(0.2, 1, ve_dim=8, ve_layers=[1], table_dropout=0.5).train()
    ids = torch.randint(64, (4, 33), generator=torch.Generator().manual_seed(2))
    drawn, inner, losses = [], model.dropped, []
    model.dropped = lambda x: drawn.append(one := inner(x)) or one
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(model(ids[:, :-1], ids[:, 1:]).item())
    bigram, value = (one.abs().sum(-1) > 0 for one in drawn[:2])
    assert not torch.equal(bigram, value) and losses[0] == losses[1] != losses[2]


def test_qat_is_live_in_training_eager_and_compiled_and_gradients_pass_through() -> None:
    model = noisy_model(0.2, 1, num_layers=1)
    ids = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(3))
    names = [name for name in parameter_shapes(model.config) if ".attn.c_" in name or ".mlp." in name]
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False, fullgraph=True, backend="eager")
    model.train()
    losses = {}
    for on in (False, True):
        assert model.set_fake_grids({name: GRIDS["int5_row_clip"] for name in names if on}) == on * len(names)
        losses[on] = [one(ids[:, :-1], ids[:, 1:]) for one in (model, compiled)]
        assert abs(losses[on][0] - losses[on][1]) < 1e-4
    assert abs(losses[True][0] - losses[False][0]) > 1e-4
    losses[True][1].backward()
    assert all(model.get_parameter(name).grad.abs().any() for name in names)
    model.eval()
    left = model(ids[:, :-1], ids[:, 1:])
    assert abs(left - losses[False][0]) < 1e-4, "evaluation sees the weights as they are"
