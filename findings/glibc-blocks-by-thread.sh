#!/usr/bin/env bash
# glibc told to keep large blocks (mallopt, M_MMAP_THRESHOLD) keeps them for the first thread alone: numpy 2.4.6 on glibc 2.36.
#
# Arrays and tensors on a CPU are malloc's. A block of 32 MiB and more is mapped from the kernel and given back when it is freed: every
# use pays for its pages anew. Programs raise M_MMAP_THRESHOLD and M_TRIM_THRESHOLD against that, and mallopt says 1
# for done. In the first thread it is. Every other thread has heaps of 64 MiB: what is larger does not fit, is mapped anew
# each time whatever the threshold says, and finds nothing of what the first thread has freed. Whoever scores or loads in a
# pool of threads measures the gain in the main one and does not have it. M_ARENA_MAX = 1 before the threads begin lets
# them use the first one's.
#
# Seen on 2026-11-29 with glibc 2.36, numpy 2.4.6: page faults per array made and freed, once each has been made four times
#              left alone          thresholds raised     and one arena
#              first     another   first     another     first     another
#   24 MB           0          0        0          0           0         0
#   80 MB      19,532     19,532        0     19,532           0         0
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check numpy==2.4.6
cat > faults.py <<'PY'
import ctypes, platform, resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np

def faults(megabytes):
    """Of the fifth to eighth array of so many MB, made and freed one after another: page faults per array."""
    for number in range(8):
        if number == 4:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        array = np.empty(megabytes * 1_000_000, np.uint8)
        array[::4096] = 1
        del array
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 4

mallopt = ctypes.CDLL(None).mallopt
for option, value in {"none": [], "raised": [(-3, 2**30), (-1, 2**31 - 1)],
                      "one arena": [(-3, 2**30), (-1, 2**31 - 1), (-8, 1)]}[sys.argv[1]]:
    assert mallopt(option, value) == 1
seen = []
for megabytes in (24, 80):
    with ThreadPoolExecutor(1) as pool:
        seen.append((faults(megabytes), pool.submit(faults, megabytes).result()))
print(platform.libc_ver(), sys.argv[1], seen)
(small_first, small_other), (large_first, large_other) = seen
was = {"none": large_first > 50 and large_other > 50, "raised": large_first < 5 and small_other < 5 and large_other > 50,
       "one arena": large_first < 5 and large_other < 5}[sys.argv[1]]
raise SystemExit(0 if was else "CHANGED")
PY
export NUMPY_MADVISE_HUGEPAGE=0
for how in none raised "one arena"; do venv/bin/python faults.py "$how"; done
echo "as seen: blocks over 64 MiB are kept for the first thread alone"
