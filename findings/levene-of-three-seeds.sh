#!/usr/bin/env bash
# scipy 1.17.1: with three seeds a recipe Levene's test finds no two spreads unlike: its p is 0.116 at least.
#
# Whether a recipe's seeds scatter more than another's decides which t test is right and how many seeds to plan.
# `scipy.stats.levene` compares distances from the median, as Brown and Forsythe do. Of three scores one is the median: its
# distance is zero, so three numbers are really two and a zero, and they scatter about their own mean. The statistic has a
# ceiling of 4, reached when the second recipe has no spread at all. So scores that scatter a million times as much pass as
# alike. Four seeds have no ceiling, since no score of theirs is the median; five have one at 16, p = 0.004. pingouin's
# homoscedasticity asks this test first and answers "equal variances" for all three seeds. center="mean" has a ceiling of 16
# at three seeds, p = 0.016. Bartlett's test has none (and wants normal scores).
#
# Expected: p near 0. Seen on 2026-11-30 with numpy 2.4.6 and pingouin 0.7.0, 20,000 pairs of recipes with normal scores whose
# standard deviations are 5e-4 and 5e-10:
#   levene's least p 0.116 with three seeds, 6e-15 with four, 0.004 with five; center="mean", three seeds 0.016
#   bartlett's median p, three seeds 9e-11; pingouin, three seeds: equal_var True in all of 200
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6 pingouin==0.7.0
cat > spreads.py <<'PY'
import numpy
import pingouin
from scipy import stats

draw = numpy.random.default_rng(0)
least = {}
for seeds in (3, 4, 5):
    wide = 1.28 + draw.normal(0, 5e-4, (20_000, seeds))
    narrow = 1.28 + draw.normal(0, 5e-10, (20_000, seeds))
    least[seeds] = float(stats.levene(wide, narrow, axis=1).pvalue.min())
    bartlett = float(numpy.median(stats.bartlett(wide, narrow, axis=1).pvalue))
    print(f"{seeds} seeds: levene's least p {least[seeds]:.3g}, bartlett's median {bartlett:.3g}")
    if seeds == 3:
        equal = all(pingouin.homoscedasticity([*pair])["equal_var"].item() for pair in zip(wide[:200], narrow[:200]))
print("pingouin, three seeds: equal variances in all", equal)
mean = float(stats.levene(wide[:, :3], narrow[:, :3], axis=1, center="mean").pvalue.min())
print(f"center='mean', three seeds: least p {mean:.3g}")
raise SystemExit(0 if 0.0161 < mean and 0.116 < least[3] < 0.13 and least[4] < 1e-6 and equal else "CHANGED")
PY
venv/bin/python spreads.py
echo "as seen: three seeds never scatter unlike"
