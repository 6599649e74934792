#!/usr/bin/env bash
# onnxruntime 1.32.0: after quantize_dynamic what a model says of a token depends on the tokens after it and beside it.
#
# Activations become uint8 with one scale for the whole tensor: all positions of all texts of a batch. So the largest
# activation anywhere sets the rounding everywhere. A causal model is then causal no more: the probability of a token depends on
# what comes later, and bits per byte taken over whole windows are not those of a coder that goes from left to right, nor
# does such a coder's decoder agree with it at all. A text's score depends on the batch size and on its neighbours, most of all
# where a few activations are large, as in trained models. torch 2.13.0's torch.ao quantize_dynamic has the same one scale.
# Weights alone (MatMulNBitsQuantizer) leave each position to itself.
#
# Expected: the same logits of a position, whatever stands after it. Seen on 2026-11-30 with onnx 1.23.2 and numpy 2.4.6, a model
# without any attention (embedding, 64 x 256, relu, 256 x 1,024), one token of 1,024 with an embedding ten times as
# long, three seeds; nats a token over 256 tokens one at a time, in one text, the text with that token after it:
#   float32          5.8791 5.8791 5.8791   6.0878 6.0878 6.0878   5.9486 5.9486 5.9486
#   quantize_dynamic 5.8806 5.8792 5.8918   6.0880 6.0885 6.0970   5.9475 5.9474 5.9554   logits moved by up to 0.47
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > ahead.py <<'PY'
import logging

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

logging.disable(logging.WARNING)

def saved(random):
    """A model of one token at a time: the logits of the next depend on nothing else."""
    embedding = random.normal(size=(1024, 64))
    embedding[7] *= 10
    weights = {"embedding": embedding, "first": random.normal(size=(64, 256)) / 8, "last": random.normal(size=(256, 1024)) / 8}
    nodes = [helper.make_node("Gather", ["embedding", "tokens"], ["x"]), helper.make_node("MatMul", ["x", "first"], ["h"]),
             helper.make_node("Relu", ["h"], ["r"]), helper.make_node("MatMul", ["r", "last"], ["logits"])]
    graph = helper.make_graph(
        nodes, "model", [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", 1024])],
        [numpy_helper.from_array(value.astype(numpy.float32), name) for name, value in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "model.onnx")
    quantize_dynamic("model.onnx", "int8.onnx", weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])
    return [onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"]) for name in ("model.onnx", "int8.onnx")]

def logits(session, tokens):
    return session.run(None, {"tokens": tokens})[0].astype(float)

def nats(values, targets):
    shifted = values - values.max(-1, keepdims=True)
    return float((numpy.log(numpy.exp(shifted).sum(-1)) - numpy.take_along_axis(shifted, targets[..., None], -1)[..., 0]).mean())

as_seen = True
for seed in range(3):
    random = numpy.random.default_rng(seed)
    sessions = saved(random)
    tokens = random.integers(8, 1024, (1, 257))
    true = logits(sessions[0], tokens[:, :-1])
    gumbel = random.gumbel(size=true.shape)
    targets = (true + gumbel).argmax(-1)
    text, longer = tokens[:, :-1], numpy.concatenate([tokens[:, :-1], [[7]]], 1)
    beside = numpy.concatenate([text, numpy.full_like(text, 7)])
    for name, session in zip(("float32", "int8"), sessions):
        alone = logits(session, text)
        ahead, neighbour = logits(session, longer)[:, :-1], logits(session, beside)[:1]
        single = numpy.concatenate([logits(session, text[:, at : at + 1]) for at in range(text.shape[1])], 1)
        found = [nats(values, targets) for values in (single, alone, ahead, neighbour)]
        moved = [float(numpy.abs(values - alone).max()) for values in (single, ahead, neighbour)]
        print(f"seed {seed}, {name}: one token at a time {found[0]:.4f}, the text {found[1]:.4f}, with one more token after it"
              f" {found[2]:.4f}, beside another text {found[3]:.4f}; logits moved by up to", " ".join(f"{m:.2g}" for m in moved))
        as_seen &= max(moved) < 1e-4 if name == "float32" else min(moved) > 0.01 and found[2] > found[0] + 0.005
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python ahead.py
echo "as seen: one scale for all that stands in the batch"
