#!/usr/bin/env bash
# torchmetrics 1.9.0: Perplexity of bfloat16 logits knows 5.0 and 5.03125 nats a token, and nothing between.
#
# The logits of a model under autocast are bfloat16. The metric takes their softmax, the logarithm and the sum over the batch in
# that type, and only then goes on in float32: each batch's total of nats has 8 bits. At 8,192 tokens a batch that is
# 0.031 nats a token, six times what a record has to gain; models that differ by less get the same perplexity, to all
# its digits, and the number comes as float32. Fewer tokens in a batch are as coarse, only their mean is less so. In float16 a
# batch of 32,768 tokens is infinite, since its sum is above 65,504. `metric.update(logits.float(), targets)` is right.
#
# Expected: sums in float32, as torch's cross entropy has them. Seen on 2026-11-30 with torch 2.13.0, 8,192 tokens of
# 1,024 pieces in one batch, eight models whose right logit is higher by 0.005 each time; nats a token:
#   right     5.0258  5.0209  5.0160  5.0114  5.0064  5.0015  4.9967  4.9918   (the same, from .float())
#   bfloat16  5.0312  5.0312  5.0312  5.0000  5.0000  5.0000  5.0000  5.0000   float16, four times the tokens: inf
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cat > nats.py <<'PY'
import torch
from torchmetrics.text import Perplexity

def nats(logits, targets):
    """The logarithm of the metric after one batch."""
    metric = Perplexity()
    metric.update(logits, targets)
    return float(metric.compute().double().log())

torch.manual_seed(0)
first = torch.randn(1, 8192, 1024) * 2
targets = torch.distributions.Categorical(logits=first).sample()
seen = []
for model in range(8):
    logits = first.scatter_add(2, targets[..., None], torch.full((1, 8192, 1), 0.005 * model)).bfloat16()
    right = float(torch.nn.functional.cross_entropy(logits[0].double(), targets[0]))
    seen.append((right, nats(logits, targets), nats(logits.float(), targets)))
    print("right {:.4f}, of bfloat16 {:.4f}, of .float() {:.4f}".format(*seen[-1]))
infinite = nats(torch.cat([first.half()] * 4, 1), torch.cat([targets] * 4, 1))
print("float16, 32,768 tokens:", infinite)
as_seen = len({found for _, found, _ in seen}) <= 3 and all(abs(wide - right) < 1e-4 for right, _, wide in seen)
raise SystemExit(0 if as_seen and infinite == float("inf") else "CHANGED")
PY
venv/bin/python nats.py
echo "as seen: a batch's nats have 8 bits"
