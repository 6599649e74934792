#!/usr/bin/env bash
# datatrove 0.10.1: token files of a large vocabulary, merged with save_final_metadata=False, keep half their bytes, and count all.
#
# DocumentTokenizer writes two bytes a token up to 65,536 kinds and four above. DocumentTokenizerMerger takes the width from a
# file NAME.ds.metadata, which the first step leaves out under save_final_metadata=False, and which the second does not read
# under the same option: then it is two. Of a document of n tokens it reads 2 n bytes, then as many as the next one is said to
# need, and never comes to the second half of a file. Of one file the first half is left, whole, and a model is trained on half
# the corpus. Of several, pieces alternate that begin within documents and, where an n is odd, within a token: many ids are none
# that the model knows. The index and the statistics have the full number of tokens. Its documentation calls the option "whether to
# save the final metadata". Leave it on in both steps, or hold a file's size against the last entry of its index.
#
# Expected: the same documents in another order, whatever is kept beside them. Seen on 2026-11-30 with tokenizers 0.23.3 and numpy
# 2.4.6, 1,000 made-up documents of 27,271 tokens; documents that come out as they were, tokens written, ids beyond the vocabulary:
#   1,000 kinds, with or without it     1000, 27271, none                  70,000 kinds, with it   1000, 27271, none
#   70,000 kinds, without it in either step or both   of one file 495, 13635.5, none     of two 1, 13635.5, 44 %
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check datatrove==0.10.1 tokenizers==0.23.3 numpy==2.4.6
cat > merged.py <<'PY'
import pathlib
import shutil

import numpy
import tokenizers
from datatrove.data import Document
from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger

def merged(kinds, files, first, second):
    """Documents that come out whole, tokens written, counted and indexed, and the share of ids beyond the vocabulary."""
    vocabulary = {f"w{i}": i for i in range(kinds - 1)} | {"<eos>": kinds - 1}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save("words.json")
    draw = numpy.random.default_rng(0)
    documents = [draw.integers(0, kinds - 1, size=draw.integers(5, 50)).tolist() for _ in range(1000)]
    for rank in range(files):
        step = DocumentTokenizer("parts", "words.json", eos_token="<eos>", seed=0, save_final_metadata=first)
        texts = (" ".join(f"w{i}" for i in document) for document in documents[rank::files])
        step.run((Document(text=text, id="") for text in texts), rank=rank, world_size=files)
    step = DocumentTokenizerMerger("parts", "whole", "all", seed=0, save_final_metadata=second, progress=False)
    step.run()
    width = 2 if kinds <= 2**16 else 4
    written = pathlib.Path("whole/000_all.ds").read_bytes()
    tokens = numpy.frombuffer(written[: len(written) // width * width], f"<u{width}")
    ends = numpy.fromfile("whole/000_all.ds.index", "<u8").tolist()
    found = [tokens[start : end - 1].tolist() for start, end in zip([0, *ends], ends)]
    shutil.rmtree("parts"), shutil.rmtree("whole")
    whole = sum(document in found for document in documents)
    return whole, len(written) / width, step.stats["tokens"].total, ends[-1], float((tokens >= kinds).mean())

as_seen = True
for kinds in (1000, 70_000):
    for files in (1, 2):
        for kept in ((True, True), (True, False), (False, True), (False, False)):
            whole, tokens, counted, indexed, beyond = merged(kinds, files, *kept)
            print(f"{kinds} kinds, {files} files, metadata {kept}: {whole} documents whole, {tokens} tokens written, "
                  f"{counted} counted, {indexed} indexed, {beyond:.1%} beyond the vocabulary")
            as_seen &= counted == indexed
            if kinds < 2**16 or all(kept):
                as_seen &= (whole, tokens, beyond) == (1000, counted, 0)
            else:
                as_seen &= tokens == counted / 2
                as_seen &= beyond == 0 and 450 < whole < 550 if files == 1 else beyond > 0.2 and whole < 10
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python merged.py 2> log || { tail -5 log; exit 1; }
echo "as seen: half the bytes, and all the counts"
