"""What is left of a recipe's step where it is timed."""

import pytest
import torch

from pgolf_core.lab.bench.step import one_micro_batch
from pgolf_core.recipes.reading import load_recipe


@pytest.mark.parametrize(("kind", "seqs", "expected"), [("cpu", 0, 2), ("cuda", 0, 8), ("cpu", 5, 5)])
def test_a_records_micro_batch_is_cut_to_what_both_arms_hold(kind: str, seqs: int, expected: int) -> None:
    data = one_micro_batch(load_recipe("pr315"), torch.device(kind), seqs).data
    assert (data.batch_tokens, data.micro_batch_seqs) == (expected * 2048, expected)


def test_a_local_recipe_keeps_its_micro_batch_and_is_stripped_of_what_would_change_the_work() -> None:
    recipe = load_recipe("local-pr315", ["data.batch_tokens=49152", "data.micro_batch_seqs=32", 'qat.kind="always"'])
    cut = one_micro_batch(recipe, torch.device("cpu"))
    assert cut.data.batch_tokens == 32 * 512 and cut.qat.kind == "off" and cut.schedule.max_seconds == 0
    assert cut.model == recipe.model and cut.optim == recipe.optim
