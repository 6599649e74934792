#!/usr/bin/env bash
# safetensors 0.8.0: a transposed numpy array is stored with its shape and the wrong order; 0.7.0 stored it rightly.
#
# safetensors.numpy now hands over where an array begins and how many bytes it has, no longer the bytes in the order of its
# shape. Whatever numpy keeps in another order is written as it lies in memory: every weight is there, at another place, so
# that shape, type, size of the file, mean and standard deviation are all right and the model is noise. It need not say .T close
# by: astype, arithmetic and numpy.copy keep the order of what they are given, and numpy.load gives back the order that was
# saved. Its documentation asks for contiguous and dense tensors, as that of 0.7.0 did; numpy calls a transposed array
# contiguous too, and nothing is checked. (safetensors.torch refuses such a tensor.) It is reported to its makers and open.
# Call numpy.ascontiguousarray on everything that is saved, or stay at 0.7.0.
#
# Expected: the same array, or an error. Seen on 2026-11-30 with numpy 2.4.6, a layer of 256 x 64 weights, three seeds;
# difference to what was saved as a share of its length, 0.7.0 and 0.8.0:
#   weights.T                         0 0 0   1.42 1.42 1.42      numpy.load of a saved weights.T     0 0 0   1.42 1.42 1.42
#   weights.T.astype(numpy.float16)   0 0 0   1.42 1.42 1.42      numpy.ascontiguousarray(weights.T)  0 0 0   0    0    0
#   numpy.copy(weights.T) / 2         0 0 0   1.42 1.42 1.42
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 0.7.0 0.8.0; do
    "$python" -m venv "$version"
    "$version/bin/python" -m pip install --quiet --disable-pip-version-check safetensors=="$version" numpy==2.4.6
done
cat > order.py <<'PY'
import os

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

as_seen, new = True, safetensors.__version__ == "0.8.0"
for seed in range(3):
    weights = (np.random.default_rng(seed).standard_normal((256, 64)) * 0.02).astype(np.float32)
    np.save("transposed.npy", weights.T)
    arrays = {
        "weights": weights,
        "weights.T": weights.T,
        "weights.T.astype(float16)": weights.T.astype(np.float16),
        "copy(weights.T) / 2": np.copy(weights.T) / 2,
        "load of a saved weights.T": np.load("transposed.npy"),
        "ascontiguousarray(weights.T)": np.ascontiguousarray(weights.T),
    }
    for name, array in arrays.items():
        save_file({"layer": array}, "layer.safetensors")
        read = load_file("layer.safetensors")["layer"]
        difference = float(np.linalg.norm(read.astype(np.float64) - array) / np.linalg.norm(array.astype(np.float64)))
        print(f"safetensors {safetensors.__version__}, seed {seed}, {name}: {difference:.2f}; standard deviation "
              f"{array.std():.5f} and {read.std():.5f}, {os.path.getsize('layer.safetensors')} bytes")
        as_seen &= read.shape == array.shape and np.array_equal(np.sort(read, axis=None), np.sort(array, axis=None))
        as_seen &= difference > 1 if new and not array.flags.c_contiguous else difference == 0
raise SystemExit(0 if as_seen else "CHANGED")
PY
0.7.0/bin/python order.py
0.8.0/bin/python order.py
echo "as seen: transposed arrays come back in another order, without a word"
