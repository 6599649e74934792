#!/usr/bin/env bash
# h5py 3.16.0: scaleoffset=2 makes zeros of all weights below 0.01; rounding to two decimals, of those below 0.005.
#
# HDF5's scale-offset filter keeps that many digits after the decimal point, and most weights it does round to the nearest.
# But a number nearer to the dataset's fill value than one whole step is taken for the fill value itself, which is zero where
# nobody has set one. So the gap around zero is twice as wide as rounding makes it, and in it the error goes up to a whole
# step. h5py's documentation says how many digits are kept, that the filter is lossy and that NaN and infinity are lost; its
# fillvalue is what the parts never written are read as. With fillvalue=numpy.nan (or any number far from the weights) the same
# filter rounds as numpy.round does, in sixteen bytes more.
#
# Expected: an error of half a step at most. Seen on 2026-11-30 with HDF5 2.0.0 and numpy 2.4.6, 512 x 512 weights with a
# standard deviation of 0.02, three seeds; loss in % of the weights' length, largest error, share of zeros:
#   2 digits    as it is 20.9 21.0 20.9  0.010  0.38     fillvalue=nan 14.4 14.4 14.4  0.005   numpy.round 14.4 14.4 14.5
#   3 digits    as it is 1.53 1.53 1.52  0.001  0.040    fillvalue=nan 1.44 1.45 1.44  0.0005  numpy.round 1.44 1.45 1.45
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check h5py==3.16.0 numpy==2.4.6
cat > digits.py <<'PY'
import os

import h5py
import numpy as np

def stored(weights, digits, fill):
    with h5py.File("weights.h5", "w") as file:
        file.create_dataset("weights", data=weights, chunks=weights.shape, scaleoffset=digits, fillvalue=fill)
    with h5py.File("weights.h5") as file:
        return file["weights"][...], os.path.getsize("weights.h5")

as_seen = True
for seed in range(3):
    weights = (np.random.default_rng(seed).standard_normal((512, 512)) * 0.02).astype(np.float32)
    for digits in (2, 3):
        step, found = 10.0**-digits, {}
        plain, size = stored(weights, digits, None)
        free, free_size = stored(weights, digits, np.nan)
        for name, read in (("plain", plain), ("fillvalue=nan", free), ("numpy.round", np.round(weights, digits))):
            error = np.abs(read.astype(np.float64) - weights)
            loss = float(np.linalg.norm(error) / np.linalg.norm(weights))
            found[name] = loss, float(error.max()) / step, float((read == 0).mean())
            print(f"seed {seed}, {digits} digits, {name}: {100 * loss:.2f} % lost, largest error {error.max():.5f}, "
                  f"{found[name][2]:.3f} are zeros")
        small = np.abs(weights) < 0.999 * step
        as_seen &= bool((plain[small] == 0).all()) and abs(size - free_size) < 100
        as_seen &= found["plain"][1] > 0.99 and found["plain"][0] > 1.04 * found["numpy.round"][0]
        as_seen &= found["fillvalue=nan"][1] < 0.501 and found["fillvalue=nan"][0] < 1.01 * found["numpy.round"][0]
print("h5py", h5py.__version__, "HDF5", h5py.version.hdf5_version)
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python digits.py
echo "as seen: what is less than one step from zero becomes zero"
