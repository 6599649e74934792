"""A profile as text: what was profiled, and a table of operators that fits 80 columns.

pytest tests/lab/bench/test_profile.py
"""

from __future__ import annotations

from pgolf_core.lab.bench.profile import profile_text


def test_a_profile_is_a_sentence_and_a_table() -> None:
    operator = {"name": "aten::" + "mm" * 60, "calls": 3, "self_seconds": 0.25, "share": 0.5}
    seconds = {"micro_batch": 1.0, "update": 0.5, "muon": 0.25}
    about = {"recipe": "tiny", "arm": "fast", "micro_batch_tokens": 1024, "path": "p", "by": "self cpu time"}
    text = profile_text({**about, "step_seconds": seconds, "operators": [operator]})
    assert max(map(len, text.splitlines())) <= 80
    for part in ("step of tiny, fast arm", "1,024 tokens", "update 0.500", "50.0%", "0.2500"):
        assert part in text, part
