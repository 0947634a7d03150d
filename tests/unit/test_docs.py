"""The documentation names files, recipes and settings that exist."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = {target.partition("#")[0] for target in LINK.findall(text) if ":" not in target}
    missing = [target for target in targets - {""} if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_recipe_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"recipes/[\w/]+\.yaml", page.read_text(encoding="utf-8")))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_page_is_in_the_navigation_and_nothing_else() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(_leaves(site["nav"])) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_settings_tables_and_included_files_take_the_place_of_their_comments(
    hooks: ModuleType,
) -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!--" not in hooks.rendered(text, str(page.relative_to(DOCS))), page
    smkd = hooks.rendered((DOCS / "methods/smkd.md").read_text(encoding="utf-8"), "methods/smkd.md")
    assert "| `lambda_patch` | 0.45 | Weight of the matched-patch loss" in smkd


def test_links_of_an_included_file_lead_to_the_pages_or_nowhere(
    hooks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/README.md").write_text(
        "[a](../docs/cluster.md#x) [b](smkd_step.py) [c](https://example.org) [d](#here)"
    )
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    text = hooks.included("benchmarks/README.md", "guides/page.md")
    assert text == "[a](../cluster.md#x) b [c](https://example.org) [d](#here)"


def test_a_file_that_is_not_written_yet_leaves_a_page_that_says_so(hooks: ModuleType) -> None:
    assert "not written yet" in hooks.included("benchmarks/NONE.md", "results.md")


def test_a_wrong_settings_comment_is_refused(hooks: ModuleType) -> None:
    with pytest.raises(hooks.ConfigError, match="use one of method, addition, backbone"):
        hooks.tables("metod", "smkd")


def _leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _leaves(item)
