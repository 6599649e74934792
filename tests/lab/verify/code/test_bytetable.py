"""How a script counts the bytes of a token, read off its text: the right rule in many forms, and known wrong ones."""

import pytest

from pgolf_core.lab.verify.code.bytetable import judge_tables
from pgolf_core.lab.verify.code.shipped import Code
from pgolf_core.lab.verify.evidence.checks import Broken, CannotCheck

SPECIAL = "    if sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):\n        continue\n"
BYTE = "    if sp.is_byte(i):\n        base_bytes[i] = 1\n        continue\n"
PIECE = "    piece = sp.id_to_piece(i)\n"
LEAD = "    if piece.startswith('\\u2581'):\n        space[i] = True\n        piece = piece[1:]\n"
COUNT = "    base_bytes[i] = len(piece.encode('utf-8'))\n"
LOOP = "for i in range(n):\n"
ADDS = "def score(t, p):\n    n = base_lut[t]\n    n += (has_leading_space_lut[t] & ~boundary[p]).to(n.dtype)\n"
OTHER_NAMES = "def score(a, b, c, t, p):\n    n = a[t]\n    n += (b[t] & ~c[p]).to(n.dtype)\n"
IN_A_BRANCH = "def score(a, b, c, t, p):\n    n = a[t]\n    if b[t] and not c[p]:\n        n += 1\n    return n\n"
BY_A_NAME = "def score(a, b, c, t, p):\n    more = b[t] & ~c[p]\n    return a[t] + more\n"
NO_SCORE = "def mask(a, b, t):\n    if a[t] and not b[t - 1]:\n        return 1\n    return a[t] & ~b[t - 1]\n"
BY_CALLS = "def score(a, b, c, t, p):\n    return a[t] + xp.where(xp.logical_and(b[t], xp.logical_not(c[p])), 1, 0)\n"
SUBTRACTS = "def score(t, p):\n    return base_bytes[t] - (space[t] & boundary[p])\n"
IN_TABLE = "    base_bytes[i] = len(piece.replace('\\u2581', ' ').encode())\n"


def nested(*parts: str) -> str:
    """The same lines inside something."""
    return "".join(f"    {line}\n" for line in "".join(parts).splitlines())


FOR_BYTES = BYTE.replace("sp.is_byte(i)", "piece.startswith('<0x')")
MARKED = "    space[i] = piece.startswith('\\u2581')\n"
RIGHT = {name: "".join(parts) for name, parts in {
    "the published rule": (LOOP, SPECIAL, "    edge[i] = False\n", BYTE, PIECE, LEAD, COUNT, ADDS),
    "in a function": ("def luts(sp, n):\n", nested(LOOP, SPECIAL, BYTE, PIECE, LEAD, COUNT), ADDS),
    **{f"the space added {how}": (LOOP, SPECIAL, BYTE, PIECE, LEAD, COUNT, score) for how, score in (
        ("by other names", OTHER_NAMES), ("in a branch", IN_A_BRANCH), ("by calls", BY_CALLS), ("later", BY_A_NAME))},
    "else instead of continue": (
        LOOP, "    if sp.is_byte(i):\n        base_bytes[i] = 1\n    else:\n", nested(PIECE, LEAD, COUNT), ADDS),
    "bytes by their spelling": (LOOP, PIECE, FOR_BYTES, LEAD, COUNT, ADDS),
    "the space in the table alone": (LOOP, BYTE, PIECE, IN_TABLE),
    "the space in the table, and taken off at boundaries": (
        LOOP, BYTE, PIECE, "    space[i] = piece[0] == '\\u2581'\n", IN_TABLE, SUBTRACTS, OTHER_NAMES),
    "by a function": (
        "MARK = '\\u2581'\ndef size(sp, i):\n    p = sp.IdToPiece(i)\n    if sp.IsByte(i):\n        return 1\n"
        "    return len((p[1:] if p.startswith(MARK) else p).encode())\n",
        LOOP, "    if i in special:\n        continue\n    base_bytes[i] = size(sp, i)\n"
        "    space[i] = sp.IdToPiece(i).startswith(MARK)\n", ADDS),
    "lists": (
        LOOP, "    if sp.is_control(i):\n        base_bytes.append(0)\n        continue\n", PIECE,
        "    lead = piece.startswith('\\u2581')\n"
        "    count = 1 if sp.is_byte(i) else len(piece.lstrip('\\u2581').encode())\n"
        "    base_bytes.append(min(count, 65535))\n    space.append(lead)\n", ADDS),
}.items()}  # fmt: skip
TWICE, SIX, THREE = "a leading space counts 2 bytes", "a byte piece counts 6 bytes", "a byte piece counts 3 bytes"
ONE_MORE = (
    "    if piece.startswith('\\u2581'):\n        space[i] = True\n"
    "        base_bytes[i] = len(piece[1:].encode('utf-8')) + 1\n"
)
DECODED = "base_bytes = torch.tensor([len(sp.decode([i]).encode('utf-8')) for i in range(n)])\n"
WRONG = {name: ("".join(parts), why) for name, (why, *parts) in {
    "one more in the table": ("any piece counts 1 byte more", RIGHT["the published rule"].replace(
        COUNT, COUNT.rstrip() + " + 1\n")),
    "one more where there is a space": (TWICE, LOOP, BYTE, PIECE, COUNT, ONE_MORE, ADDS),
    **{f"one more, and added {how}": (TWICE, LOOP, BYTE, PIECE, COUNT, ONE_MORE, score) for how, score in (
        ("by other names", OTHER_NAMES), ("in a branch", IN_A_BRANCH), ("by calls", BY_CALLS), ("later", BY_A_NAME))},
    "written as a space, and added": (TWICE, LOOP, BYTE, PIECE, MARKED, IN_TABLE, ADDS),
    "written as a space, and added by a name": (
        TWICE, LOOP, BYTE, PIECE, MARKED, IN_TABLE,
        "def score(t, p):\n    lead = space[t] & ~boundary[p]\n    return base_bytes[t] + lead\n"),
    "the mark's own three bytes": ("a leading space counts 3 bytes", LOOP, BYTE, PIECE, COUNT),
    "no rule for byte pieces": (SIX, LOOP, SPECIAL, PIECE, LEAD, COUNT, ADDS),
    "decoded byte pieces": (THREE, DECODED),
}.items()}  # fmt: skip
ONES, ONE = "base_bytes = np.ones(n)\n", "        base_bytes[i] = 1\n"
OPEN = {name: "".join(parts) for name, parts in {
    "no table": ("x = 1\n",),
    "bytes by a pattern": (
        RIGHT["bytes by their spelling"].replace("piece.startswith('<0x')", "re.match('<0x', piece)"),),
    "bytes by a text that is not known": (
        RIGHT["bytes by their spelling"].replace("piece.startswith('<0x')", "piece[:3] in (BYTE, '<0y')"),),
    "bytes by a pattern, in a function": (
        "def size(p):\n    if re.match('<0x', p):\n        return 1\n    return len(p.lstrip('\\u2581').encode())\n",
        LOOP, PIECE, MARKED, "    base_bytes[i] = size(piece)\n", ADDS),
    "bytes by their number": (LOOP, BYTE.replace("sp.is_byte(i)", "3 <= i < 259"), PIECE, LEAD, COUNT, ADDS),
    "bytes by their kind": (
        LOOP, "    match kinds[i]:\n        case 6:\n    ", ONE, "            continue\n", PIECE, LEAD, COUNT, ADDS),
    "bytes by what they are not": (LOOP, "    if i >= 259:\n", nested(PIECE, LEAD, COUNT), "    else:\n", ONE, ADDS),
    "bytes left out by their number": (ONES, LOOP, "    if i < 259:\n        continue\n", PIECE, LEAD, COUNT, ADDS),
    "others by their number": (ONES, LOOP, "    if i >= 259:\n", nested(PIECE, LEAD, COUNT), ADDS),
    "the space in the table, and one less at boundaries": (
        LOOP, BYTE, PIECE, MARKED, IN_TABLE,
        "def score(t, p):\n    n = base_bytes[t]\n    return where(space[t] & boundary[p], n - 1, n)\n"),
    "one more where there is a space, and what the score does is not seen": (
        LOOP, BYTE, PIECE, COUNT, ONE_MORE, "def score(a, b, c, t, p):\n    return f(a, b, c, t, p)\n"),
    "a mask that is no table of spaces": (
        LOOP, BYTE, PIECE, COUNT, ONE_MORE, NO_SCORE,
        "def mask(a, t):\n    return (a[t] & ~a[t - 1]) + (a[t] & ~b[t])\n"),
    "the table is loaded": ("base_bytes = np.load('bytes.npy')\n", ADDS),
}.items()}  # fmt: skip


def judge(*sources: str) -> str:
    return judge_tables({f"{at}.py": Code(f"{at}.py", 1, source, "") for at, source in enumerate(sources)})


@pytest.mark.parametrize("form", RIGHT)
def test_the_right_rule_is_held_in_whatever_form_it_is_written(form: str):
    assert "a leading space counts once, a byte piece one byte" in judge(RIGHT[form])
    assert "count fewer" not in judge(RIGHT[form])


@pytest.mark.parametrize("form", WRONG)
def test_a_table_that_makes_the_text_longer_fails_with_file_and_line(form: str):
    source, why = WRONG[form]
    with pytest.raises(Broken, match=rf"0\.py, line \d+: .*{why}"):
        judge(source)


@pytest.mark.parametrize("form", OPEN)
def test_a_table_that_cannot_be_followed_is_neither_right_nor_wrong(form: str):
    with pytest.raises(CannotCheck, match="no table of bytes that could be followed"):
        judge(OPEN[form])


def test_a_right_and_a_wrong_table_leave_it_open_and_an_unread_script_says_why():
    with pytest.raises(CannotCheck, match="which one scores is not known"):
        judge(RIGHT["lists"], WRONG["no rule for byte pieces"][0])
    for other in ("bytes_of = np.load('x.npz')['base_bytes']\n", "counts = shards('d/fineweb_val_bytes_*.bin')\n"):
        with pytest.raises(
            CannotCheck, match=r"0\.py, line 1 counts .* 1\.py, line 1 reads bytes of tokens from a file"
        ):
            judge(RIGHT["the published rule"], other)
        with pytest.raises(CannotCheck, match=r"0\.py, line 1 reads bytes"):
            judge(other)
    with pytest.raises(CannotCheck, match="packed with brotli"):
        judge_tables({"a.py": Code("a.py", 1, "", "packed with brotli")})


def test_following_a_table_ends_whatever_the_script_holds():
    loops = LOOP + PIECE + "    base_bytes[i] = f(piece)\ndef f(p):\n    return f(p) + f(p)\n"
    nested = LOOP + PIECE + "    base_bytes[i] = " + "len(piece) + (" * 60 + "0" + ")" * 60 + "\n"
    long = LOOP + BYTE + PIECE + "    piece = piece.replace('a', 'aaaaaaaaaa')\n" * 50 + COUNT
    pairs = "    a = (1, 1)\n    b = (1, 1)\n" + "    a = (a, a)\n    b = (b, b)\n" * 60
    deep = LOOP + PIECE + pairs + "    base_bytes[i] = len(piece) if a == b else 0\n"
    for source in (loops, nested, long, deep):
        with pytest.raises(CannotCheck):
            judge(source)
