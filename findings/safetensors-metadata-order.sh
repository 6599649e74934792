#!/usr/bin/env bash
# safetensors 0.8.0: with metadata, the same tensors give other bytes in every process.
#
# Tensors are laid out in a fixed order, but the header writes the entries of `metadata` in the order of a hash table that
# each process seeds anew. One entry is always the same; with several, the SHA-256 of a file says nothing about whether
# its content changed. Keep at most one entry (a JSON string of all of them), or hash the tensors and not the file.
#
# Seen on 2026-11-28 with safetensors 0.8.0, eight entries: four processes, four hashes. With one entry: one hash.
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cat > saved.py <<'PY'
import hashlib
import sys

import numpy
from safetensors.numpy import save

metadata = {key: key for key in "abcdefgh"[: int(sys.argv[1])]}
print(hashlib.sha256(save({"w": numpy.zeros(3)}, metadata)).hexdigest()[:16])
PY
hashes() { for _ in 1 2 3 4; do venv/bin/python saved.py "$1"; done | sort -u | wc -l; }
one=$(hashes 1)
eight=$(hashes 8)
echo "different files of four: $one with one entry of metadata, $eight with eight"
[ "$one" -eq 1 ] && [ "$eight" -gt 1 ] || { echo "CHANGED"; exit 1; }
echo "as seen: several entries, several files"
