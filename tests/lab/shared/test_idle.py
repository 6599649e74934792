"""Keys without effect: every rule against what the recipe does with the key, and when a key is named."""

from pathlib import Path

import pytest

from pgolf_core.lab.shared.idle import idle_keys, idle_note
from pgolf_core.lab.shared.usage import checked_recipe
from pgolf_core.recipes.reading import load_recipe

CASES = {
    ("average.kind=ema",): "average.swa_start average.swa_every_steps",
    ("average.kind=swa",): "average.ema_decay",
    ("average.kind=none",): "average.ema_decay average.swa_start average.swa_every_steps",
    ("qat.kind=off",): "qat.threshold qat.grid",
    ("qat.kind=always",): "qat.threshold",
    ("model.bigram_rows=0",): "model.bigram_dim optim.bigram_optimizer",
    ("model.ve_dim=0", "model.ve_layers=[]"): "optim.ve_frozen",
    (
        "model.bigram_rows=0",
        "model.ve_dim=0",
        "model.ve_layers=[]",
    ): "model.bigram_dim optim.bigram_optimizer optim.ve_frozen model.table_dropout",
    ("model.smear=off",): "optim.smear_beta2",
    ("model.smear=window",): "optim.smear_beta2",
    ("model.attn_gate=off",): "model.attn_gate_scale model.gate_window quant.gates",
    ("quant.low_rank=0",): "quant.low_rank_top quant.low_rank_group",
    ("data.final_seq_len=0",): "data.final_fraction",
    ("data.final_seq_len=256", "data.final_fraction=0"): "data.final_seq_len",
    ("schedule.warmdown_fraction=0.5",): "schedule.warmdown_iters",
    ("qat.kind=late", "schedule.warmdown_iters=0", "schedule.warmdown_fraction=0"): "qat.kind qat.threshold qat.grid",
    ("optim.muon_wd=0",): "optim.muon_wd_order",
    ("optim.grad_clip_norm=0",): "optim.clip_each_rank",
    ("optim.muon_momentum=0.9", "optim.muon_momentum_start=0.9"): "optim.muon_momentum_warmup_steps",
    ("model.rope_reference_tokens=9999",): "model.rope_reference_tokens",
    ("model.rope_reference_tokens=0", "model.rope_dims=2"): "model.rope_base",
    ("quant.allocation=gradient",): "quant.attention quant.mlp",
    ("quant.kind=steps", "qat.kind=off", "quant.low_rank=0"): "quant.attention quant.mlp quant.tok_emb quant.other",
    ("quant.correction=off",): "quant.correction_damping quant.correction_tokens quant.correction_order "
    "quant.correct_tok_emb",
    ("adapt.kind=sgd",): "adapt.lora_rank adapt.lora_window adapt.batch_documents adapt.phases adapt.phase_rows",
    ("adapt.kind=frozen",): "adapt.lr adapt.epochs adapt.batch_seqs adapt.lora_lr",
    ("adapt.kind=off", "adapt.tilt=off"): "adapt.lr adapt.chunk_tokens adapt.phases adapt.tilt_order adapt.tilt_boost",
    ("adapt.phases=0",): "adapt.lr adapt.momentum adapt.chunk_tokens adapt.phase_documents adapt.phase_rows",
    ("quant.mlp=int6_row",): "quant.clip_sigmas quant.mlp_clip_sigmas",
    ("quant.mlp_clip_sigmas=11.5",): "quant.clip_sigmas",
    ("quant.tok_emb=int6_row",): "quant.embed_clip_sigmas",
}


@pytest.mark.parametrize(("changes", "idle"), CASES.items(), ids=str)
def test_a_key_that_nothing_reads_is_idle_and_is_read_without_the_change(changes: tuple[str, ...], idle: str):
    used = [
        "average.kind=swa", "qat.kind=late", "model.bigram_rows=64", "model.ve_dim=8", "model.ve_layers=[1]",
        "model.rope_reference_tokens=256", "data.final_seq_len=1024", "schedule.warmdown_fraction=0",
        "quant.correction=hessian", "quant.kind=grid", "quant.allocation=fixed",
        "quant.mlp=int6_sigma", "quant.tok_emb=int8_sigma", "model.attn_gate=sparse", "adapt.kind=lora",
        "adapt.tilt=ngram", "adapt.mix=off", "quant.low_rank=2", "quant.low_rank_group=16",
    ]  # fmt: skip
    before = idle_keys(load_recipe("local-smoke", used))
    after = idle_keys(load_recipe("local-smoke", [*used, *changes]))
    assert set(idle.split()) <= after.keys()
    if not changes[0].startswith("average.kind"):
        assert not set(idle.split()) & before.keys()


@pytest.mark.parametrize(
    ("longer", "tokens"),
    [
        (["data.order=packed", "data.micro_batch_seqs=8"], 2048),
        (["adapt.mix=off", "adapt.kind=lora", "adapt.lora_window=2048", "adapt.phases=0"], 2048),
        (["adapt.mix=off", "adapt.kind=lora", "adapt.batch_seqs=20", "adapt.phase_rows=8"], 3 * 512),
    ],
)
def test_a_reference_length_is_idle_only_where_no_row_is_longer(longer: list[str], tokens: int):
    """Rows of packed documents and of a phase, and windows of documents."""
    for reference, idle in ((tokens - 1, False), (tokens, True)):
        given = ["data.spans_per_step=1", *longer, f"model.rope_reference_tokens={reference}"]
        assert ("model.rope_reference_tokens" in idle_keys(load_recipe("local-smoke", given))) is idle


def test_named_are_keys_that_somebody_set(tmp_path: Path, capsys):
    assert idle_note("local-smoke", (), load_recipe("local-smoke")) == ""
    recipe = checked_recipe("local-smoke", ["average.kind=ema", "average.swa_start=0.5", "qat.threshold = 0.1"])
    assert recipe.average.kind == "ema"
    said = "no effect in this recipe: average.swa_start (average.kind = ema), qat.threshold (qat.kind = off)"
    assert capsys.readouterr().err == f"note: {said}\n"
    path = tmp_path / "mine.toml"
    path.write_text('extends = "local-smoke"\n[optim]\nve_frozen = false\n[data]\nfinal_fraction = 0.5\n')
    said = "no effect in this recipe: optim.ve_frozen (model.ve_dim = 0), data.final_fraction (data.final_seq_len = 0)"
    assert idle_note(str(path), (), load_recipe(str(path))) == said
