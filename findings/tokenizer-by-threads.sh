#!/usr/bin/env bash
# sentencepiece 0.2.3: the number of threads that trained a tokenizer enters its file, and for `unigram` its scores.
#
# The model file keeps the trainer's settings, num_threads among them. So two BPE tokenizers with equal pieces and equal
# scores have different hashes: a tokenizer that is known by the hash of its file counts as another one when it is trained
# again on a machine with another setting. For model_type=unigram the scores differ too, in their last digits, because
# each thread adds up its own share of the expected counts; the pieces were the same here. Train with num_threads=1, or
# compare pieces and scores and not the file.
#
# Seen on 2026-11-28 with sentencepiece 0.2.3, 6,000 lines of made-up words, 600 pieces:
#   bpe      1 against 4 threads: pieces and scores equal, the files differ in 1 byte
#   unigram  1 against 4 threads: pieces equal, scores differ
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check sentencepiece==0.2.3
cat > trained.py <<'PY'
import io
import random

import sentencepiece

draw = random.Random(1)
words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 7))) for _ in range(2000)]
lines = [" ".join(draw.choices(words, k=12)) for _ in range(6000)]

def trained(kind, threads):
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=file, vocab_size=600, model_type=kind, num_threads=threads, minloglevel=2
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    ids = range(model.vocab_size())
    return file.getvalue(), [model.id_to_piece(i) for i in ids], [model.get_score(i) for i in ids]

seen = {}
for kind in ("bpe", "unigram"):
    (file, pieces, scores), (file4, pieces4, scores4) = trained(kind, 1), trained(kind, 4)
    seen[kind] = pieces == pieces4, scores == scores4, file == file4
    print(kind, "pieces equal: {}, scores equal: {}, files equal: {}".format(*seen[kind]))
raise SystemExit(0 if seen == {"bpe": (True, True, False), "unigram": (True, False, False)} else "CHANGED")
PY
venv/bin/python trained.py
echo "as seen: threads enter the file, and the scores of unigram"
