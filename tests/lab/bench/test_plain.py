"""The plain arm is right: its losses, updates and scores are those of the core's own code."""

import pytest
import torch
from small import small_recipe

from pgolf_core.lab.bench.measures import SlidingArm
from pgolf_core.lab.bench.step import StepArm, one_micro_batch
from pgolf_core.lab.look.n06_scoring import plain_nats
from pgolf_core.network.score import score

CPU = torch.device("cpu")
LOOPED = {
    "negative_slope": 0.5, "skip_gates": True, "parallel_start": 2, "num_loops": 2, "loop_start": 1, "loop_end": 2,
}  # fmt: skip
NORMALISED = {
    "muon_row_normalise": True, "embed_wd": 0.3, "muon_coefficients": "polar_express", "muon_dtype": "bfloat16",
    "newton_schulz_steps": 6,
}  # fmt: skip
SWITCHES = [
    {},
    {"model": {"ve_dim": 8, "ve_layers": [1, 2]}, "optim": {"muon_wd_order": "after", "bigram_optimizer": "scalar"}},
    {"model": {"ve_dim": 8, "ve_layers": [0]}, "optim": {"ve_frozen": True, "grad_clip_norm": 0.0}},
    {"model": {"smear": "before", "bigram_rows": 0, "rope_reference_tokens": 8, "num_kv_heads": 2}},
    {"model": LOOPED, "optim": NORMALISED},
    {"model": {"smear": "off", "num_layers": 4, "xsa_last_n": 4, "ln_scale": False}, "average": {"kind": "swa"}},
]


def small_arms(autocast: str = "off", **changes) -> dict[str, StepArm]:
    """Both arms of the step of a small recipe, their weights made the same noise so that every part matters."""
    recipe = small_recipe(**{**changes, "schedule": {"autocast": autocast}})
    plain, fast = (one_micro_batch(recipe, CPU, 3, parts_of) for parts_of in (2, 0))  # 2 and 1, and all 3
    arms = {"plain": StepArm(plain, CPU, False), "fast": StepArm(fast, CPU, True)}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in arms["fast"].weights.items():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
            arms["plain"].weights[name].copy_(weight)
    return arms


def copied(arm: StepArm) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in arm.weights.items()}


@pytest.mark.parametrize("changes", SWITCHES)
def test_both_arms_have_the_same_losses_and_make_the_same_updates(changes: dict) -> None:
    arms = small_arms(**changes)
    start = copied(arms["fast"])
    for _ in range(3):
        for arm in arms.values():
            arm.run()
    assert arms["fast"].losses == pytest.approx(arms["plain"].losses, abs=2e-5)
    assert len(set(arms["fast"].losses)) == 3
    fast, plain = copied(arms["fast"]), copied(arms["plain"])
    frozen = {"ve.embed.weight", "ve.proj.weight"} if changes.get("optim", {}).get("ve_frozen") else set()
    assert {name for name in fast if torch.equal(fast[name], start[name])} == frozen
    rounded = changes.get("optim", {}).get("muon_dtype") == "bfloat16"
    for name in set(fast) - frozen:
        moved, apart = (fast[name] - start[name]).norm(), (fast[name] - plain[name]).norm()
        assert apart < (2e-2 if rounded else 2e-3) * moved, (name, float(apart / moved))


def test_both_arms_agree_in_bfloat16_as_far_as_its_rounding_goes() -> None:
    arms = small_arms(autocast="auto")
    start = copied(arms["fast"])
    for arm in arms.values():
        arm.run()
    assert arms["fast"].losses == pytest.approx(arms["plain"].losses, abs=0.02)
    fast, plain = copied(arms["fast"]), copied(arms["plain"])
    moved = sum((fast[name] - start[name]).square().sum() for name in fast)
    apart = sum((fast[name] - plain[name]).square().sum() for name in fast)
    assert apart < 0.15**2 * moved


def test_the_plain_sliding_score_has_the_same_nats_at_every_target() -> None:
    arm = SlidingArm(small_recipe(), CPU, fast=True)
    fast = score(arm.model, arm.tokens, arm.bytes, 16, 4, 8, autocast="off")
    plain = plain_nats(arm.model, arm.tokens, 16, 4, 8, "off")
    assert len(plain) == 16 + 4 * (arm.about["windows"] - 1) and fast.per_token_nats.std() > 0.01
    assert fast.per_token_nats == pytest.approx(plain, abs=1e-5)
