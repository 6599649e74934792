#!/usr/bin/env bash
# scikit-learn 1.9.1: log_loss of float16 probabilities is at most 6.93 nats a token, so the worse of two models can win.
#
# log_loss moves every probability into the range from eps to 1 - eps, and eps is that of the probabilities' type: 2e-16 for
# float64, 1.2e-7 for float32, 0.00098 for float16. So the highest loss of one token is 36.0, 15.9 or 6.93 nats. The vocabulary
# of a small language model has 1,024 tokens and more, where an even guess is at 6.93 already: in float16 nothing can be
# worse than to know nothing. There is no option, and no warning. Probabilities that were kept in float16 to save room have to
# be made float64 before they are scored, and only then, when the number is right, does it warn that they do not sum to one.
#
# Expected: a bound at 1e-15, as it once was, whatever the type. Seen on 2026-11-29 with numpy 2.4.6, 2,000 tokens of 1,024, nats:
#                                     float64   float32   float16   float16 made float64
#   tokens drawn from the model         3.473     3.473     3.363     3.473
#   a model sure of other tokens       11.256    11.156     6.820    11.700
#   an almost even guess                6.936     6.936     6.891     6.936
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat > losses.py <<'PY'
import numpy
from sklearn.metrics import log_loss

draw = numpy.random.default_rng(0)

def softmax(logits):
    powers = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

sharp = softmax(3 * draw.normal(size=(2000, 1024)))
own = numpy.array([draw.choice(1024, p=row) for row in sharp])
others = draw.integers(0, 1024, 2000)
even = softmax(0.1 * draw.normal(size=(2000, 1024)))
types = (numpy.float64, numpy.float32, numpy.float16)
seen = {}
for name, tokens, guess in (("own", own, sharp), ("others", others, sharp), ("even", others, even)):
    seen[name] = [float(log_loss(tokens, guess.astype(kind), labels=range(1024))) for kind in types]
    seen[name].append(float(log_loss(tokens, guess.astype(numpy.float16).astype(numpy.float64), labels=range(1024))))
    print(name, *(f"{value:.3f}" for value in seen[name]))
reversed_order = seen["others"][0] > seen["even"][0] and seen["others"][2] < seen["even"][2]
raise SystemExit(0 if reversed_order and seen["own"][2] < seen["own"][0] - 0.05 else "CHANGED")
PY
venv/bin/python losses.py
echo "as seen: the type of the probabilities bounds their loss"
