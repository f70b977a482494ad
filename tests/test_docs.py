"""The Python blocks of the README and the documentation run, in order, in one namespace for each file."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LIBRARIES = ROOT / "docs" / "libraries.md"  # each of its programs needs another library: tests/test_peers.py runs them
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", [page for page in PAGES if page != LIBRARIES], ids=lambda page: page.name)
def test_code_blocks_run(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    namespace: dict = {}
    for i, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {i}", "exec"), namespace)
    assert blocks or page.name not in ("README.md", "CONTRIBUTING.md", "backprop.md")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
