"""What a score does with a table of spaces: by the table's name, or by the form of the question."""

import ast

import pytest

from pgolf_core.lab.verify.code.spaces import added_space

CASES = {
    "n = size[t] + (space[t] & ~edge[p])": True,
    "n = size[t]\nn += (lut.has_lead[t] & ~lut.edge[p]).to(n.dtype)": True,
    "n = size[t] - (space[t] & edge[p])": False,
    "n = size[t] - (space[t] & edge[p]) + (a[t] & ~b[p])": False,  # a name tells more than a form
    "n = s[t] + (a[t] & ~b[p])": True,
    "n = s[t] + (~b[p] & a[t])": True,
    "n = s[t] + ((~b[p]).float() & a[t].float()) + 0": True,
    "more = a[t] & ~b[p]\nn = s[t] + more": True,
    "n = s[t]\nif a[t] and not b[p]:\n    n += 1": True,
    "n = s[t] + np.logical_and(a[t], np.logical_not(b[p]))": True,
    "n = s[t] - (a[t] & ~b[p])": False,
    "n = s[t] + (a[t] & b[p])": None,
    "n = s[t] + (a[t] & ~a[p])": None,  # one table
    "n = s[t] + (a[t] & ~b[t])": None,  # one place
    "n = a[t] & ~b[p]\nif a[t] and not b[p]:\n    n = 1": None,  # nothing is added
    "n = f(s, a, b, t, p)": None,
}


@pytest.mark.parametrize("source", CASES)
def test_a_space_is_added_taken_off_or_neither_is_seen(source: str):
    assert added_space(list(ast.walk(ast.parse(source)))) is CASES[source]
