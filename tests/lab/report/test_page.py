"""Text from files and models as Markdown, and the page made of it: shown, and not obeyed."""

import html
import re

import mistune
import pytest

from pgolf_core.lab.report.page import Markdown, fenced, html_page, plain, quoted, table

HOSTILE = "<script>alert(1)</script> ![x](http://e.example/p.png) | `a` # @everyone $x$ **b** <!-- &amp; ~~c~~ www.e.f"


def seen(markdown: str) -> str:
    """The visible text of Markdown."""
    page = str(mistune.create_markdown(escape=False, plugins=["table"])(markdown))
    return html.unescape(re.sub(r"<[^>]+>", "", page))


@pytest.mark.parametrize("how", [plain, quoted, lambda text: table(["a", "b"], [["c", text]])])
def test_hostile_text_is_shown_as_it_is_and_makes_no_markup(how):
    markdown = how(HOSTILE)
    assert HOSTILE in seen(markdown)
    assert not any(sign in markdown for sign in ("<", "http://", "www.", "@everyone", "!["))


def test_a_quotation_keeps_lines_and_leading_blanks_and_makes_no_list_or_heading():
    lines = ["    four blanks", "- dash", "1. one", "12) twelve", "# heading", "", "=== under", "3 men"]
    page = str(mistune.html(quoted("\n".join(lines))))
    assert not re.search(r"<(li|h1|h2|pre|code)", page)
    text = seen(quoted("\n".join(lines)))
    assert all(line.strip() in text for line in lines) and "\u00a0\u00a0\u00a0\u00a0four" in text


def test_no_backticks_end_a_block_of_code_early():
    assert fenced("a ``` b ```` c").splitlines() == ["`````", "a ``` b ```` c", "`````"]
    assert fenced("a", "python") == "```python\na\n```"


def test_text_columns_of_a_table_stand_to_the_left_and_totals_are_bold(tmp_path):
    markdown = table(["run", "score", "bpb"], [["a", "sliding", "1.0"], ["mean", "–", "1.0"]], 2, totals=1)
    assert markdown.splitlines()[1] == "| :-- | :-- | --: |" and "| **mean** |" in markdown
    assert table(["a", "b", "c"], [], {1}).splitlines()[1] == "| --: | :-- | --: |"
    page = html_page(f"# A\n\n{markdown}\n\n## B\n\n{markdown}", "a < b", tmp_path)
    assert '<th scope="row" style="text-align:left">a</th>' in page and '<td style="text-align:right">1.0</td>' in page
    assert "<title>a &lt; b</title>" in page and page.index("</header>") < page.index("<h2>B")


def test_what_is_markdown_already_is_not_escaped_again():
    assert isinstance(plain("*"), Markdown) and plain("a\n b") == "a b"
