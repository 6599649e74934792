#!/usr/bin/env bash
# python-minifier 3.4.0: what it writes depends on whether the same process has shown a value at a prompt before.
#
# It leaves every name of `builtins` alone. Python's own prompt and `doctest` keep the last value they showed in
# builtins._ ; from then on a local variable that is called `_` keeps that name, where it would have got another one. The
# program is the same, its bytes are not: a script whose bytes are counted or hashed differs between `python make.py`
# and the same call at a prompt, or in a test run with doctests in it.
#
# Seen on 2026-11-28 with Python 3.11.7:
#   before a value was shown   def A(pair):A,B,C=pair;E,D=B;return A,C,D
#   after                      def A(pair):A,B,C=pair;_,D=B;return A,C,D
set -euo pipefail
python=${1:-python3.11}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check python-minifier==3.4.0
venv/bin/python - <<'PROGRAM'
import sys

import python_minifier

SOURCE = """
def f(pair):
    first, second, third = pair
    _, last = second
    return first, third, last
"""
before = python_minifier.minify(SOURCE, rename_globals=True, hoist_literals=False)
sys.displayhook("any value")  # what the prompt and doctest call to show one
after = python_minifier.minify(SOURCE, rename_globals=True, hoist_literals=False)
print("before a value was shown ", before)
print("after                    ", after)
sys.exit("CHANGED: both are the same" if before == after else 0)
PROGRAM
echo "as seen: another text after a value was shown"
