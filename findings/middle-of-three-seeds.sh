#!/usr/bin/env bash
# rliable 1.2.0: the interquartile mean of three seeds is their mean, and its 95 % interval is their range.
#
# The library is for comparing recipes from a handful of runs, and its documentation recommends the interquartile mean as robust
# to outliers. It cuts int(n / 4) scores off each end, so of three none: one seed that diverged counts in full, and the number
# still goes by the name. By its definition, with a quarter of n cut off by parts of scores, three seeds weigh 1/6, 4/6, 1/6.
# The bootstrap's interval of three scores runs from the least to the largest, because one draw in 27, more than 2.5 %, is three
# times the least. All three lie on one side of the true median in two cases of eight, so this "95 %" holds it in 75 %, and
# no number of `reps` helps. Nothing warns. Take the median of three, or more seeds; for an interval of few Student's t.
#
# Seen on 2026-11-30, interquartile mean of scores of 1.20 and one of 3.00 (pandas 2: arch 7.2.0 does not import with 3.1.1):
#   seeds   rliable   by its definition   mean        interval of 1.20, 1.21, 1.25: [1.20, 1.25]
#   3       1.800     1.500               1.800
#   4       1.200     1.200               1.650
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
  rliable==1.2.0 arch==7.2.0 pandas==2.3.3 numpy==2.4.6 scipy==1.17.1 statsmodels==0.15.0
cat > middle.py <<'PY'
import numpy
from rliable import library, metrics
from scipy import stats

def middle(scores):
    """The interquartile mean by its definition: the mean of the middle half, with parts of scores at its ends."""
    ordered = numpy.sort(scores)
    edges = numpy.clip(numpy.arange(len(ordered) + 1), len(ordered) / 4, len(ordered) * 3 / 4)
    return float(ordered @ numpy.diff(edges) / (len(ordered) / 2))

print("seeds   iqm of rliable   by definition   mean    (all 1.20 and one of 3.00 bits per byte)")
found = {}
for count in (3, 4, 5, 8):
    scores = numpy.array([1.2] * (count - 1) + [3.0])
    found[count] = metrics.aggregate_iqm(scores[:, None]), middle(scores), scores.mean()
    print(f"{count:5} {found[count][0]:16.3f} {found[count][1]:15.3f} {found[count][2]:6.3f}")

scores = numpy.array([1.20, 1.21, 1.25])
_, intervals = library.get_interval_estimates({"recipe": scores[:, None]}, lambda x: numpy.array([metrics.aggregate_iqm(x)]))
interval = intervals["recipe"][:, 0]
reach = stats.t.ppf(0.975, 2) * stats.sem(scores)
print(f"{scores}: interval {interval}, Student's {scores.mean() - reach:.3f} to {scores.mean() + reach:.3f}")
as_seen = abs(found[3][0] - found[3][2]) < 1e-9 and abs(found[3][1] - 1.5) < 1e-9 and abs(found[4][0] - 1.2) < 1e-9
as_seen &= numpy.allclose(interval, [1.20, 1.25])
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python middle.py
echo "as seen: of three seeds none is cut off"
