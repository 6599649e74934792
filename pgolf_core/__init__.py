"""pgolf_core: train, pack, unpack and score one small language model.

ROOMS is the one list of the order: a room imports only rooms above it, and never `pgolf_core.lab`. Joined in this order
the files are the script that a submission ships (`pgolf export`).
"""

__version__ = "0.1.0"

ROOMS = (
    "base.names", "base.files", "base.strict", "base.device", "base.parallel", "base.stop", "base.squeeze",
    "base.grouping", "base.bits",
    "recipes.adapt", "recipes.recipe", "recipes.rules", "recipes.reading",
    "text.tokenizer", "text.shards", "text.ranked", "text.packed", "text.batches", "text.sidecar", "text.caseops",
    "network.grid", "network.extras", "network.choice", "network.attention", "network.documents",
    "network.gates", "network.head", "network.model", "network.score",
    "packing.sensitivity", "packing.correction", "packing.ledger", "packing.coder", "packing.steps",
    "packing.allocation", "packing.format", "packing.pack", "packing.unpack",
    "training.polar", "training.optim", "training.average", "training.runlog", "training.progress",
    "training.checkpoint", "training.loop",
    "adapting.told", "adapting.mixture", "adapting.plan", "adapting.documents", "adapting.tilt", "adapting.sgd",
    "adapting.lora", "adapting.trace",
    "result", "seed",
)  # fmt: skip
