#!/usr/bin/env bash
# scipy 1.17.1: the Brunner-Munzel test gives nan where every seed of one recipe beats every seed of the other.
#
# It is the rank test for two recipes that do not scatter alike. Its error is estimated from how ranks overlap, and where
# they do not, it is zero: the better the recipe, the surer it is to have no p-value at all. `p < 0.05` is then False: the
# power rises with the improvement and falls again to nothing, with ten seeds as with three. scipy warns, and advises
# distribution="normal": then p is exactly 0, and so it is for one pair of equal recipes in ten at three seeds.
# statsmodels 0.15.0's rank_compare_2indep does the same without the advice; its confidence interval is [nan, nan].
# What to do: nan here means "as far apart as can be": permutation_test gives 2 / 20 for three seeds each.
#
# Expected: the smallest p that the number of seeds allows. Seen on 2026-11-30 with numpy 2.4.6, 2,000 pairs each;
# p < 0.05, and nan, by how many standard deviations apart:
#                  0                 1              2              4              8
#   3 seeds    0.000, 0.103     0.000, 0.274   0.000, 0.613   0.000, 0.985   0.000, 1.000
#   10 seeds   0.062, 0.000     0.554, 0.002   0.892, 0.095   0.141, 0.859   0.000, 1.000
#   3 seeds, distribution="normal": exactly 0 for 0.103 of equal recipes
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check scipy==1.17.1 statsmodels==0.15.0 numpy==2.4.6
cat > apart.py <<'PY'
import warnings

import numpy
from scipy import stats
from statsmodels.stats.nonparametric import rank_compare_2indep

warnings.simplefilter("ignore")
here, there = [1.2801, 1.2795, 1.2807], [1.2789, 1.2781, 1.2792]
print("one pair:", stats.brunnermunzel(here, there), stats.brunnermunzel(here, there, distribution="normal"))
other = rank_compare_2indep(here, there)
print("statsmodels:", other.pvalue, other.conf_int())
permuted = stats.permutation_test((here, there), lambda x, y: numpy.mean(x) - numpy.mean(y)).pvalue
print("permutation_test:", permuted)
seen = {}
for seeds in (3, 10):
    draw = numpy.random.default_rng(seeds)
    for apart in (0, 1, 2, 4, 8):
        pairs = draw.normal(size=(2000, 2, seeds)) + numpy.array([[0], [apart]])
        p = numpy.array([stats.brunnermunzel(*pair).pvalue for pair in pairs])
        seen[seeds, apart] = float(numpy.mean(p < 0.05)), float(numpy.mean(numpy.isnan(p)))
        low, without = seen[seeds, apart]
        print(f"{seeds} seeds, {apart} deviations apart: below 0.05 {low:.3f}, nan {without:.3f}")
        if (seeds, apart) == (3, 0):
            zero = numpy.mean([stats.brunnermunzel(*pair, distribution="normal").pvalue == 0 for pair in pairs])
            print(f'3 seeds, equal, distribution="normal": exactly 0 {zero:.3f}')
as_seen = numpy.isnan(other.pvalue) and abs(permuted - 0.1) < 1e-9 and 0.06 < zero < 0.14
as_seen &= seen[3, 8][1] > 0.95 and seen[10, 2][0] > 0.8 and seen[10, 8] < (0.05, 2.0) and seen[10, 8][1] > 0.95
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python apart.py
echo "as seen: the clearest improvement has no p-value"
