"""A budget is packed to as for a real file; rounding in turn finds what the record's own way does."""

import pytest
from small import small_recipe

from pgolf_core.lab.bench.measures import PackingArm, RoundingArm


def test_a_recipe_on_steps_is_packed_to_its_budget_from_uneven_sensitivities() -> None:
    arm = PackingArm(small_recipe(quant={"kind": "steps", "target_bytes": 20_000, "small_tensor_elements": 64}))
    assert set(arm.run()) == {"pack", "unpack"}
    assert 0.99 * 20_000 < arm.about["file_bytes"] <= 20_000


def test_the_core_and_the_records_way_of_rounding_in_turn_find_the_same_codes() -> None:
    quant = {"small_tensor_elements": 64, "correction": "hessian", "correct_tok_emb": True, "attention": "int6_sigma"}
    arms = [RoundingArm(small_recipe(quant={**quant, "mlp": "int4_sigma", "tok_emb": "int8_sigma"}), fast)
            for fast in (True, False)]  # fmt: skip
    for arm in arms:
        assert set(arm.run()) == {"whole"} and arm.about["weights"] > 0
    assert arms[0].answer == pytest.approx(arms[1].answer, rel=1e-3) and arms[0].answer > 0
    fast, plain = arms[0]._fast(), arms[1]._plain()
    assert set(fast) == set(plain) and "tok_emb.weight" in fast
    assert sum(int((fast[name][0] != plain[name][0]).sum()) for name in fast) <= 0.005 * arms[0].about["weights"]
    packed = PackingArm(small_recipe(quant=quant))
    assert packed.run()["pack"] > 0
