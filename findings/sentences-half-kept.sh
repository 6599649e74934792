#!/usr/bin/env bash
# datatrove 0.10.1: of a repeated span too short to be removed (min_words_to_remove_span) all but the first sentence goes.
#
# SentenceDedupFilter removes spans of sentences (or lines) that stand elsewhere too; by its name, this option spares those of fewer
# words. But of a span only the first sentence is remembered: it alone is counted against the minimum, however long the span
# is, and it alone is put back. So with any minimum above the length of a first sentence the text is torn at every repeat: an
# opening without what it opened, neither the document as it was nor one without the duplicate. A larger minimum does not spare
# more, it leaves more first sentences. The documents set aside for inspection (exclusion_writer) show the span as removed
# whole. Its documentation does not say what the option does. Leave it at 0, its default.
#
# Expected: the span stays whole below the minimum and goes whole above it. Seen on 2026-11-30 with spacy 3.8.18, three documents
# around one span of four sentences (27 words and marks, the first of them 4); what is left of the span in the second document:
#   minimum 0, 4: no sentence     5, 20, 27, 28, 1000: the first sentence     the same of four lines
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check datatrove==0.10.1 spacy==3.8.18 \
  tokenizers==0.23.3 regex==2026.11.19 numpy==2.4.6
cat > spans.py <<'PY'
import shutil

from datatrove.data import Document
from datatrove.pipeline.dedup.sentence_dedup import SentDedupConfig, SentenceDedupFilter, SentenceDedupSignature, SentenceFindDedups
from datatrove.utils.hashing import HashConfig

span = ["We use cookies.", "They help us to show you these pages.", "Read more of that here.", "We do wish you a nice day."]

def left(minimum, sentences):
    """Which sentences of the span, of the texts' own ones too, are left in each of three documents that hold it."""
    settings = SentDedupConfig(
        split_sentences=sentences, min_words_to_remove_span=minimum, only_dedup_in_index=False, min_doc_words=0,
        min_num_sentences=0, hash_config=HashConfig(hash_fc="sha1"))
    joint = " " if sentences else "\n"
    texts = [joint.join([f"It began with {word}.", *span, f"So {word} came to its end."]) for word in ("one", "two", "three")]
    documents = lambda: (Document(text=text, id=text) for text in texts)
    SentenceDedupSignature("signatures", config=settings).run(documents())
    SentenceFindDedups("signatures", "found", config=settings).run()
    kept = [document.text for document in SentenceDedupFilter("found", config=settings).run(documents())]
    shutil.rmtree("signatures"), shutil.rmtree("found")
    words = len(SentenceDedupFilter("found", config=settings).tokenizer.word_tokenize(" ".join(span)))
    return [[sentence for sentence in span if sentence in text] for text in kept], kept, words

as_seen = True
for sentences in (True, False):
    for minimum in (0, 4, 5, 20, 27, 28, 1000):
        found, kept, words = left(minimum, sentences)
        print(f"{'sentences' if sentences else 'lines'}, minimum {minimum}, span of {words}: {kept[1]!r}")
        as_seen &= words == 27 and found == [span] + [span[:1] if minimum > 4 else []] * 2
        as_seen &= all(text.startswith("It began") and text.endswith("its end.") for text in kept)
raise SystemExit(0 if as_seen else "CHANGED")
PY
venv/bin/python spans.py 2> log || { tail -5 log; exit 1; }
echo "as seen: only the first sentence is put back"
