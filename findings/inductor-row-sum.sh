#!/usr/bin/env bash
# torch.compile (Inductor, torch 2.13.0, CPU): a row's sum and what it sums are one loop only where the row enters the terms.
#
# Of logits l [rows, columns] both functions below return exp(f(l)) in bfloat16 and the float32 sum of exp(f(l)) over each
# row: one pass over l would do for either. The guess was that it does. It does not for the first: without anything that
# depends on the row, the terms are written as one flat loop over rows x columns, which no longer fits the loop over rows
# that sums, and a float32 buffer as large as the whole matrix goes out to memory and comes back. With a number of the row
# subtracted in the exponent (as softmax subtracts its maximum, or a loss its target) there is one loop and no buffer.
#
# Seen on 2026-11-29 with torch 2.13.0+cpu: float32 buffers of the whole matrix: 1 without, 0 with the row's number.
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TORCHINDUCTOR_CACHE_DIR=$folder/cache
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > rows.py <<'PY'
import re

import torch
from torch._inductor.utils import run_and_get_code

ROWS, COLUMNS = 256, 8192

def plain(l, t):
    e = torch.exp(60 * torch.sigmoid(l.float() / 15) - 30)
    return e.bfloat16(), e.sum(1)

def shifted(l, t):
    s = torch.sigmoid(l.float() / 15)
    e = torch.exp(60 * (s - s.gather(1, t)))
    return e.bfloat16(), e.sum(1)

l, t = torch.randn(ROWS, COLUMNS).bfloat16(), torch.randint(COLUMNS, (ROWS, 1))
found = {}
for function in (plain, shifted):
    answer, (code, *_) = run_and_get_code(torch.compile(function, dynamic=False, fullgraph=True), l, t)
    wanted = function(l, t)
    assert torch.allclose(answer[1], wanted[1], rtol=1e-4) and torch.allclose(answer[0].float(), wanted[0].float(), rtol=0.02)
    buffers = re.findall(rf"empty_strided_cpu\(\({ROWS}, {COLUMNS}\), \({COLUMNS}, 1\), torch\.float32\)", code)
    found[function.__name__] = len(buffers)
    print(function.__name__, "float32 buffers of the whole matrix:", len(buffers))
raise SystemExit(0 if found == {"plain": 1, "shifted": 0} else "CHANGED")
PY
venv/bin/python rows.py
echo "as seen: only terms that depend on their row are summed where they are made"
