"""A budget is packed to as for a real file.

pytest tests/lab/bench/test_measures.py
"""

from __future__ import annotations

from small import small_recipe

from pgolf_core.lab.bench.measures import PackingArm


def test_a_recipe_on_steps_is_packed_to_its_budget_from_uneven_sensitivities() -> None:
    arm = PackingArm(small_recipe(quant={"kind": "steps", "target_bytes": 20_000, "small_tensor_elements": 64}))
    assert set(arm.run()) == {"pack", "unpack"}
    assert 0.99 * 20_000 < arm.about["file_bytes"] <= 20_000
