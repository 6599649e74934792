#!/usr/bin/env bash
# torch.save 2.13.0: how many bytes a checkpoint takes depends on what the file is called.
#
# The file is a zip archive, and every member's path begins with the file's name without its last extension; saved into a
# buffer it begins with `archive`. Each path stands twice, so a longer name costs about two bytes per letter and tensor (the
# alignment of 64 bytes hides some of it). Whoever counts bytes against a cap must therefore weigh the very file that
# is shipped: weighed in a buffer, or under another name, the same tensors weigh something else. A compressor takes most
# of the difference away, not all of it.
#
# Seen on 2026-11-28 with torch 2.13.0, 40 tensors of 16 x 16 floats:
#   a.pt                  50,007 bytes
#   io.BytesIO            52,395 bytes
#   final_model.int6.ptz  53,385 bytes
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > sizes.py <<'PY'
import io
import os

import torch

state = {f"blocks.{layer}.w": torch.zeros(16, 16) for layer in range(40)}
buffer = io.BytesIO()
torch.save(state, buffer)
sizes = {"io.BytesIO": len(buffer.getvalue())}
for name in ("a.pt", "final_model.int6.ptz"):
    torch.save(state, name)
    sizes[name] = os.path.getsize(name)
print(sizes)
raise SystemExit(0 if sizes["a.pt"] < sizes["io.BytesIO"] < sizes["final_model.int6.ptz"] else "CHANGED")
PY
venv/bin/python sizes.py
echo "as seen: the longer the file's name, the more bytes"
