#!/usr/bin/env bash
# datatrove 0.10.1: GopherRepetitionFilter drops most texts of 20 words though no word is repeated, by how long the first ones are.
#
# Three of its rules drop a text where the most frequent two, three or four words in a row take more than 20, 18 or 16 % of
# its characters. Where none stand twice, the first of the text count as the most frequent: four words of 20 are 20 %. So a
# short text stays or goes by the length of its own first words, and the reason given is top_4_gram. A corpus of dialogues,
# captions or exercises is thinned out by chance, and who reads the reasons takes it for repetitive. Its documentation gives the
# table of the Gopher paper and speaks of no shortest text; the paper also drops all texts under 50 words, which is another
# filter here. Where short texts are wanted, pass top_n_grams=(): the other rules count only what stands twice.
#
# Expected: a text without a word said twice is kept. Seen on 2026-11-30 with spacy 3.8.18 and numpy 2.4.6, 1,000 texts a row of
# different made-up words; dropped, and how many of them are kept with short words first or with long ones, not with both:
#   10 words  1000, 1     15  994, 819     20  862, 1000     25  453, 1000     30  87, 1000     40  0, 94     50  0, 0
#   with top_n_grams=()   0, 0 in each row
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check datatrove==0.10.1 spacy==3.8.18 \
  tokenizers==0.23.3 regex==2026.11.19 numpy==2.4.6
cat > repeats.py <<'PY'
import random
import string

from datatrove.data import Document
from datatrove.pipeline.filters import GopherRepetitionFilter

draw = random.Random(0)

def different_words(count):
    words = []
    while len(words) < count:
        word = "".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9)))
        words += [word] * (word not in words)
    return words

def kept(rule, words):
    return rule.filter(Document(text=" ".join(words), id="")) is True

default, without = GopherRepetitionFilter(), GopherRepetitionFilter(top_n_grams=())
seen = {}
for count in (10, 15, 20, 25, 30, 40, 50):
    texts = [different_words(count) for _ in range(1000)]
    both = [(sorted(text, key=len), sorted(text, key=len, reverse=True)) for text in texts]
    dropped = sum(not kept(default, text) for text in texts)
    by_order = sum(kept(default, short) != kept(default, long) for short, long in both)
    none = sum(not kept(without, text) for text in texts)
    seen[count] = dropped, by_order
    print(f"{count} words: {dropped} of 1000 dropped, {by_order} by their order alone; without top_n_grams {none} dropped")
    assert none == 0, "CHANGED"
as_seen = seen[15][0] > 900 and seen[20][0] > 700 and seen[25][0] > 300
as_seen &= seen[20][1] == seen[25][1] == 1000 and seen[50] == (0, 0)
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python repeats.py 2> log || { tail -5 log; exit 1; }
echo "as seen: once is most often"
