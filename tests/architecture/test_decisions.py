"""The decisions' index lists every decision, and a link to a heading finds that heading."""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
DECISIONS = REPO / "docs" / "decisions"
PAGES = [*REPO.glob("*.md"), *sorted((REPO / "docs").rglob("*.md"))]


def headings(page: Path) -> list[str]:
    """The texts of a page's headings, without the marks."""
    return re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """How GitHub names a heading in an address."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_index_lists_every_decision():
    subjects = sorted(page for page in DECISIONS.glob("*.md") if page.name != "README.md")
    links = {f"{page.name}#{anchor(heading)}" for page in subjects for heading in headings(page)[1:]}
    assert links == set(re.findall(r"\]\(([\w-]+\.md#[^)]+)\)", (DECISIONS / "README.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_to_headings_find_them(page: Path):
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = []
    for target, name in links:
        other = page.parent / target if target else page
        if "://" not in target and other.suffix == ".md" and name not in map(anchor, headings(other)):
            missing.append(f"{target}#{name}")
    assert not missing
