"""The code that runs: found through imports and stubs, unwrapped within bounds, and never executed."""

import base64
import bz2
import lzma
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard

from pgolf_core.lab.export import packed
from pgolf_core.lab.verify.code.shipped import MAX_LAYERS, MAX_UNPACKED, decompressed, layers, running
from pgolf_core.lab.verify.evidence.checks import CannotCheck

SOURCE = "import os\nmark = '\u2581'\nprint(os.name)\n" * 300
BYTES = SOURCE.encode()
RAW = lzma.compress(BYTES, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
B85, B64 = (lambda payload: base64.b85encode(payload).decode()), (lambda payload: base64.b64encode(payload).decode())
RAW_HOW = 'format=L.FORMAT_RAW,filters=[{"id":L.FILTER_LZMA2}]'
PACKED = {
    "lzma2, base85": f'import lzma as L,base64 as B\nexec(L.decompress(B.b85decode("{B85(RAW)}"),{RAW_HOW}))',
    "xz, base64, decoded": f"import lzma,base64\nexec(lzma.decompress(base64.b64decode('{B64(lzma.compress(BYTES))}'))"
    ".decode('utf-8'))",
    "by names": f"import zlib,base64\nS=base64.b85decode({B85(zlib.compress(BYTES))!r})\nC=zlib.decompress(S)\n"
    "exec(compile(C, 'x', 'exec'), globals())",
    "bytes, imported inline": f"exec(__import__('bz2').decompress({bz2.compress(BYTES)!r}))",
    "brotli": f"import brotli\nexec(brotli.decompress({brotli.compress(BYTES)!r}))",
    "zstd": f"import zstandard as z\nexec(z.ZstdDecompressor().decompress({zstandard.compress(BYTES)!r}))",
    "into a file that is run": f"import zlib,runpy\nC=zlib.decompress({zlib.compress(BYTES)!r})\n"
    "open('x.py','wb').write(C)\nrunpy.run_path('x.py')",
    "lzma alone": f"import lzma,base64\nexec(lzma.decompress(base64.b85decode("
    f"{base64.b85encode(lzma.compress(BYTES, format=lzma.FORMAT_ALONE))!r})))",
    "text as bytes": f"import lzma\nexec(lzma.decompress({str(lzma.compress(BYTES), 'latin1')!r}.encode('Latin1')))",
    "beside the script": f"import runpy,lzma as L,base64 as B\nc=L.decompress(B.b85decode('{B85(RAW)}'),{RAW_HOW})\n"
    "d=__file__+'x'\nwith open(d,'wb') as f:f.write(c)\nrunpy.run_path(d,run_name='__main__')",
    "in parts": f"import zlib\nP={zlib.compress(BYTES)[:99]!r}+{zlib.compress(BYTES)[99:]!r}\nexec(zlib.decompress(P))",
}


def unwrapped(text: str) -> str:
    return list(layers(text))[-1]


def wrapped(text: str, times: int = 1) -> str:
    for _ in range(times):
        text = f"import zlib\nexec(zlib.decompress({zlib.compress(text.encode())!r}))"
    return text


@pytest.mark.parametrize("form", PACKED)
def test_a_packed_script_is_read_whatever_it_is_packed_with_and_again_when_it_is_packed_often(form: str):
    assert unwrapped(PACKED[form]) == SOURCE
    assert unwrapped(wrapped(PACKED[form], MAX_LAYERS - 1)) == SOURCE


def test_what_export_packs_is_read_also_inside_another_packing():
    script = packed("import os\nprint(os.name)\n")
    for text in (script, wrapped(script)):
        assert unwrapped(text) == "import os\nprint(os.name)\n"


@pytest.mark.parametrize(
    "plain", ["x = 1\n", "exec(open('a.py').read())\n", "import re\nre.compile('a')\n", "\x00", "("]
)
def test_a_plain_script_stays_as_it_is(plain: str):
    assert unwrapped(plain) == plain


def test_what_is_too_large_too_deep_or_not_known_is_not_read():
    bomb = zlib.compress(b"#" * (MAX_UNPACKED + 1), 9)
    with pytest.raises(CannotCheck, match="larger than the 2,097,152 bytes"):
        decompressed(bomb)
    for text, why in (
        (wrapped("x = 1", MAX_LAYERS + 1), "more than 4 times"),
        ("exec(zlib.decompress(b'no stream'))", "what is not read here"),
        ("exec(zlib.decompress(secret()))", "in a way that is not known"),
        ("exec(zlib.decompress('x'.encode('utf-7')))", "encoded as 'utf-7'"),
    ):
        with pytest.raises(CannotCheck, match=why):
            unwrapped(text)


def test_code_is_followed_through_imports_stubs_and_packing_and_nothing_of_it_runs(tmp_path: Path):
    mark = tmp_path / "ran"
    stub = f"open({str(mark)!r}, 'w')\nimport helper\nexec(open('core.py').read())\n"
    texts = {
        "train_gpt.py": "import beside\n" + wrapped(stub),
        "beside.py": "",
        "helper.py": "from pkg import part\n",
        "core.py": "run('kernel.cu')\n",
        "pkg/__init__.py": "",
        "pkg/part.py": "",
        "kernel.cu": "//",
        "other.py": "x = 1",
        "notes.txt": "core.py",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = running({name: tmp_path / name for name in texts}, "train_gpt.py", Path.read_text)
    assert sorted(found) == sorted(set(texts) - {"other.py", "notes.txt"}) and not mark.exists()
    assert found["train_gpt.py"].source == stub and found["train_gpt.py"].size == len(texts["train_gpt.py"])
    assert not any(code.unread for code in found.values())


def test_a_script_that_cannot_be_unwrapped_still_counts_as_it_is_shipped(tmp_path: Path):
    (tmp_path / "train_gpt.py").write_text("exec(zlib.decompress(b'no stream'))")
    found = running({"train_gpt.py": tmp_path / "train_gpt.py"}, "train_gpt.py", Path.read_text)
    assert found["train_gpt.py"].size == 35 and found["train_gpt.py"].unread.startswith("train_gpt.py: the script")


def test_names_that_double_one_another_do_not_keep_it_busy():
    doubled = "".join(f"a{at} = a{at + 1} + a{at + 1}\n" for at in range(60)) + "a60 = zlib.decompress(b'x')\n"
    with pytest.raises(CannotCheck):
        unwrapped(doubled + "exec(a0)\n")
    long = "".join(f"a{at} = a{at + 1} + a{at + 1}\n" for at in range(30)) + f"a30 = {'x' * 99!r}\n"
    with pytest.raises(CannotCheck, match="not known"):
        unwrapped(long + "exec(b64decode(a0))\n")
