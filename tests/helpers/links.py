"""Relative links of a page in markdown."""

import re
from pathlib import Path


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a file's headings."""
    headings = re.findall(r"^#+ +(.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def outside_code(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^(`{3,}).*?^\1$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def broken_links(path: Path) -> list[str]:
    """Links and pictures of a page that lead to no file, or to no heading of it."""
    text, broken = outside_code(path), []
    for target in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]:
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        whole = found.exists() and (not anchor or anchor in anchors(found))
        broken += [] if whole or re.match(r"[a-z]+:", target) else [target]
    return broken
