#!/usr/bin/env bash
# torch 2.13.0 on a CPU: the gradient of a bfloat16 embedding ends at 256 where a token stands 16,384 times in the batch.
#
# The backward pass adds the positions of a token one after the other, in the table's own type. In bfloat16 a sum stops when it is
# 256 times its addends (float16: 2,048 times). Only the frequent tokens are touched, and a language has them: at 1,024
# pieces by Zipf's law the first is an eighth of all. Where its positions pull the same way it gets two fifths of its
# gradient. `table[ids]` does the same; `table.index_select(0, ids)`, `index_add_` and the compiled graph add in float32, so
# that eager and compiled runs train on other gradients. A float32 table does not have it, whatever autocast does.
#
# Needs a C++ compiler, for the graph. Expected: sums in float32, as torch's own mean, matmul and index_add_ of bfloat16 have
# them. Seen on 2026-11-30 with numpy 2.4.6, 16,384 positions; gradient of ones, which is rightly 16,384:
#   embedding 256   table[ids] 256   index_select 16,384   compiled 16,384   embedding of float16 2,048, of float32 16,384
#   1,024 tokens by Zipf's law, gradients of noise and of a pull per token, both of size one; length of a token's gradient:
#   a token of 2,101 positions 0.42 of the right one, of 567 0.88, of 99 1.00; index_select: all 1.00
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > gradients.py <<'PY'
import torch
from torch.nn.functional import embedding

ways = {
    "embedding": lambda table, ids: embedding(ids, table),
    "table[ids]": lambda table, ids: table[ids],
    "index_select": lambda table, ids: table.index_select(0, ids),
    "compiled": torch.compile(lambda table, ids: embedding(ids, table)),
}

def gradient(way, ids, gradients, tokens):
    """Of a table of that many tokens, whose rows at `ids` got these gradients."""
    table = torch.zeros(tokens, gradients.size(1), dtype=gradients.dtype, requires_grad=True)
    ways[way](table, ids).backward(gradients)
    return table.grad.double()

ones, ids = torch.ones(16384, 8), torch.zeros(16384, dtype=torch.long)
ends = {}
for way, dtype in [(way, torch.bfloat16) for way in ways] + [("embedding", torch.float16), ("embedding", torch.float32)]:
    ends[way, dtype] = gradient(way, ids, ones.to(dtype), 16)[0, 0].item()
    print(f"{way}, {dtype}: {ends[way, dtype]}")

torch.manual_seed(0)
ids = torch.multinomial(1 / torch.arange(1, 1025, dtype=torch.float64), 16384, replacement=True)
gradients = (torch.randn(16384, 64) + torch.randn(1024, 64)[ids]).bfloat16()
right = torch.zeros(1024, 64, dtype=torch.float64).index_add_(0, ids, gradients.double())
counts = torch.bincount(ids, minlength=1024)
lengths = {}
for way in ("embedding", "index_select"):
    seen = gradient(way, ids, gradients, 1024)
    lengths[way] = [float(seen[place].norm() / right[place].norm()) for place in counts.argsort(descending=True)[[0, 3, 20]]]
    print(f"{way}: length of the gradient of tokens with {counts.sort(descending=True).values[[0, 3, 20]].tolist()}"
          f" positions: {[round(length, 3) for length in lengths[way]]}")
as_seen = all(ends[way, torch.bfloat16] == 256 for way in ("embedding", "table[ids]"))
as_seen &= all(ends[way, torch.bfloat16] == 16384 for way in ("index_select", "compiled"))
as_seen &= ends["embedding", torch.float16] == 2048 and ends["embedding", torch.float32] == 16384
as_seen &= lengths["embedding"][0] < 0.6 and min(lengths["index_select"]) > 0.99
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python gradients.py
echo "as seen: the gradients of frequent tokens stop growing"
