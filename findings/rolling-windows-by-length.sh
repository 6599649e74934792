#!/usr/bin/env bash
# lm-eval 0.4.13: its windows are called disjoint, but the last one of a text reaches back, so the length enters the score.
#
# bits_per_byte and the perplexities come from get_rolling_token_windows with context_len=1 and make_disjoint_window. Every
# window begins with one token of context, but the last: what is left of the text is scored at the end of a whole window,
# so with as much context as the window holds. A text that ends with a window has none of that; one token more, and that
# token has seen everything before it. A training loop's validation, cut into whole windows, has none either. So the
# number is neither that of disjoint windows nor that of sliding ones, and two sets of texts, or two tokenizers on one text,
# that differ in how many tokens their texts have over a multiple of the window are not scored alike.
#
# Expected: the rest of a text as a short window that begins with one token. Seen on 2026-11-29, window 256; context, in
# tokens, and the bits of a model that learns a text's letters from its context (40 texts of 32 letters, each with its own
# distribution), by length of the text, and for the same windows with a short last one:
#   256 tokens 128, 2.930 (short last window 128, 2.930)   320 tokens 148, 2.883 (109, 3.014)
#   384 tokens 150, 2.853 (107, 2.981)                     512 tokens 128, 2.909 (128, 2.909)
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check \
    numpy==2.4.6 requests==2.34.2 pyyaml==6.0.3 jinja2==3.1.6
venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps lm-eval==0.4.13
cat > windows.py <<'PY'
import math
import random

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

WINDOW, LETTERS = 256, 32

def theirs(text):
    """(context, tokens to predict) of each window."""
    rolling = get_rolling_token_windows(text, prefix_token=LETTERS, max_seq_len=WINDOW, context_len=1)
    return [make_disjoint_window(pair) for pair in rolling]

def short_last(text):
    text = [LETTERS, *text]
    return [(text[at : at + 1], text[at + 1 : at + 1 + WINDOW]) for at in range(0, len(text) - 1, WINDOW)]

def scored(windows):
    """Mean context and mean bits of all tokens, by counts of the letters in sight, one added to each."""
    bits, contexts = [], []
    for context, predicted in windows:
        counts = [1] * (LETTERS + 1)
        seen = len(context)
        for token in context:
            counts[token] += 1
        for token in predicted:
            bits.append(-math.log2(counts[token] / sum(counts[:LETTERS])))
            contexts.append(seen)
            counts[token] += 1
            seen += 1
    return sum(contexts) / len(contexts), sum(bits) / len(bits)

draw = random.Random(1)
texts = [draw.choices(range(LETTERS), weights=[draw.expovariate(1) ** 3 for _ in range(LETTERS)], k=512) for _ in range(40)]
seen = {}
for length in (256, 257, 320, 384, 448, 512):
    row = []
    for cut in (theirs, short_last):
        row.append(scored([window for text in texts for window in cut(text[:length])]))
    seen[length] = row
    (context, bits), (shorter, more) = row
    print(f"{length} tokens: context {context:.0f}, {bits:.3f} bits; short last window {shorter:.0f}, {more:.3f} bits")
print("second window of 320 tokens:", [(len(context), len(predicted)) for context, predicted in theirs(texts[0][:320])][1])
gain = {length: row[1][1] - row[0][1] for length, row in seen.items()}
raise SystemExit(0 if gain[256] == gain[512] == 0 and gain[320] > 0.02 and gain[384] > 0.02 else "CHANGED")
PY
venv/bin/python windows.py
echo "as seen: the last window has the context of a whole one"
