"""README: any score of a seed's logs is its own, means are of the cells above them, and the rest is wrong.

pytest tests/lab/verify/reading/test_readme.py
"""

from __future__ import annotations

from pgolf_core.lab.verify.reading.readme import tables


def test_tables_are_found_with_their_marks_removed():
    text = "a | b\n---|---\n**1** | `2\\|3`\n\n| c |\n|:-:|\n\n| no table |\n"
    assert list(tables(text)) == [(["a", "b"], [["1", "2|3"]]), (["c"], [])]
