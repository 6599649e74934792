#!/usr/bin/env bash
# lmfit 1.3.4: a power law through three model sizes has its exponent "to within 1e-14", with an R-squared of 1.
#
# loss = floor + a * size^-b has three parameters; through three sizes it passes exactly, so these say nothing about its error.
# lmfit divides the sum of squares, which is rounding noise, by max(1, points - parameters), so by one, takes that for the
# variance of a point, and reports `b: 0.294 +/- 7e-15 (0.00%)`. Nothing warns and `errorbars` is True; eval_uncertainty alone
# gives nan. scipy's curve_fit says inf and warns. The error bar of a scaling law is thus smallest where there can be none, and
# the exponents of any two recipes would pass for different. The documentation divides by points - parameters, which is zero here.
# Look at `result.nfree` first, or give `weights` from the spread of seeds with scale_covar=False.
#
# Expected: inf, nan or None. Seen on 2026-11-30, 100 draws of noise of 0.003 on 1 + 0.3 * (size / 1e7)^-0.25, of the fits that
# succeeded: median standard error of the exponent, and how many have the true one within two of them
#   3 sizes   lmfit 7.6e-15   0 %        curve_fit inf, with a warning each time
#   4 sizes   lmfit 0.034     77 %       curve_fit 0.034
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check lmfit==1.3.4 numpy==2.4.6 scipy==1.17.1
cat > exponent.py <<'PY'
import warnings

import lmfit
import numpy
from scipy.optimize import OptimizeWarning, curve_fit

def law(size, floor, a, b):
    return floor + a * (size / 1e7) ** -b

def fits(sizes, draws=100):
    """Of fits to noisy losses: median standard errors of lmfit and scipy, then shares of hits, of scipy's and of lmfit's warnings."""
    generator, rows = numpy.random.default_rng(0), []
    for _ in range(draws):
        losses = law(sizes, 1.0, 0.3, 0.25) + generator.normal(0, 0.003, len(sizes))
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                result = lmfit.Model(law).fit(losses, size=sizes, floor=0.9, a=0.4, b=0.3)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                covariance = curve_fit(law, sizes, losses, [0.9, 0.4, 0.3])[1]
        except RuntimeError:
            continue
        exponent = result.params["b"]
        if not result.success or exponent.stderr is None:
            continue
        hit = abs(exponent.value - 0.25) < 2 * exponent.stderr
        warned = any(issubclass(each.category, OptimizeWarning) for each in caught)
        rows.append((exponent.stderr, covariance[2, 2] ** 0.5, hit, warned, bool(said)))
    table = numpy.array(rows, float)
    return *numpy.median(table[:, :2], axis=0), *table[:, 2:].mean(axis=0)

three, four = fits(numpy.array([1e7, 3e7, 1e8])), fits(numpy.array([1e7, 3e7, 1e8, 3e8]))
for count, (error, other, hits, warned, said) in ((3, three), (4, four)):
    print(f"{count} sizes: standard error {error:.2g} in lmfit, {other:.2g} in scipy; lmfit warns in {said:.0%}, scipy in {warned:.0%}; "
          f"the true exponent is within two of lmfit's in {hits:.0%}")
as_seen = three[0] < 1e-9 and numpy.isinf(three[1]) and three[2] < 0.05 and three[4] == 0 and four[0] > 1e-3
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python exponent.py
echo "as seen: the error bar is least where nothing can be known of it"
