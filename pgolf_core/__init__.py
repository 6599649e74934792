"""pgolf_core: train, pack, unpack and score one small language model.

The rooms, in import order: files, recipe_rules, recipe, tokenizer, data, grid, device, parallel, attention, model,
optim, average, sensitivity, ledger, coder, steps, allocation, artifact, evaluate, checkpoint, runlog, stop, clock,
train, train_main. A room imports only from rooms above it, and never from `pgolf_core.lab`.
"""

__version__ = "0.1.0"
