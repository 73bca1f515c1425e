"""The tables of the documentation that come from code say what the code says."""

from pathlib import Path

import pytest

from docs import BLOCK, PAGES, ROOT, TABLES, generated


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_as_the_code_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generated(text) == text, "run `make docs`"


def test_every_table_is_on_some_page() -> None:
    shown = {name for page in PAGES for name in BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert shown == set(TABLES)
