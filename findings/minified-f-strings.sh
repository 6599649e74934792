#!/usr/bin/env bash
# python-minifier 3.4.0: what it writes depends on the Python that runs it, and what 3.12 writes 3.11 cannot read.
#
# Python 3.12 (PEP 701) allows a string inside an f-string to use the f-string's own quotes. python-minifier then takes
# the shorter form wherever it runs on 3.12 or later, with no option for an older target. And `ast.parse` with
# feature_version=(3, 11), asked on 3.12 or 3.13, accepts that text: it is no test of whether 3.11 reads it. So a script
# that is counted in bytes and run elsewhere has other bytes, and may not start at all.
#
# Needs python3.11 and python3.12 (names or paths as $1 and $2). Seen on 2026-11-28 with 3.11.7 and 3.12.1:
#   3.11 writes  return f"{name}: {', '.join(A)}"     3.12 writes  return f"{name}: {", ".join(A)}"
#   3.11 reads 3.12's: SyntaxError                     3.12, feature_version=(3, 11), reads its own: accepted
set -euo pipefail
old=${1:-python3.11} new=${2:-python3.12}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"$old" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check --target library python-minifier==3.4.0
cat > source.py <<'SOURCE'
def line(name, values):
    return f"{name}: {', '.join(values)}"
SOURCE
for python in "$old" "$new"; do
    PYTHONPATH=library "$python" -c 'import python_minifier, sys
text = python_minifier.minify(open("source.py").read())
open("minified-3.%d.py" % sys.version_info[1], "w").write(text)
print("3.%d writes " % sys.version_info[1], text.strip())'
done
! cmp -s minified-3.11.py minified-3.12.py || { echo "CHANGED: both versions write the same"; exit 1; }
"$new" -c 'compile(open("minified-3.12.py").read(), "", "exec")'
"$new" -c 'import ast; ast.parse(open("minified-3.12.py").read(), feature_version=(3, 11))' \
    || { echo "CHANGED: feature_version now tells"; exit 1; }
if "$old" -c 'compile(open("minified-3.12.py").read(), "", "exec")' 2>/dev/null; then
    echo "CHANGED: 3.11 reads what 3.12 writes"; exit 1
fi
echo "as seen: two texts, 3.11 cannot read the one of 3.12, feature_version=(3, 11) does not notice"
