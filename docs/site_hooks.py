"""What the site is made of beside the pages in docs/: files of the repository, the reference, formulas, links.

mkdocs calls the functions whose names begin with ``on_``; mkdocs.yml names this file. What only a build needs is
imported where it is used, so that the tests can read the rest without it.
"""

from __future__ import annotations

import inspect
import os
import posixpath
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
REFLECTION = runpy.run_path(str(ROOT / "tests" / "reflection.py"))
FILES = {  # files of the repository that are pages, and their names on the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/results/cpu.md": "benchmarks_cpu.md",
    "plugins/onednn/README.md": "onednn.md",
}
WIDE = ("algorithms.md", "benchmarks_cpu.md", "porting.md")  # their tables need the room of the table of contents
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
MEASURED = re.compile(r"<!-- benchmark: begin.*?-->\n(.*?)<!-- benchmark: end -->", re.S)
FENCED = re.compile(r"(^```.*?^```$)", re.M | re.S)


def reference() -> dict[str, str]:
    """The pages of the reference: for each public module its name there and its text."""
    pages = {}
    for module in REFLECTION["public_modules"]():
        name = module.__name__
        parts = [f"# {name}", f"::: {name}\n    options: {{show_root_heading: false, show_root_toc_entry: false}}"]
        for symbol, value in sorted(REFLECTION["symbols"](module).items()):
            parts.append(f"::: {name}.{symbol}")
            if inspect.isclass(value):  # with its fields, where the text does not list them
                every = "false" if "Args:" in (value.__doc__ or "") else "true"
                parts[-1] += f"\n    options: {{members: null, show_if_no_docstring: {every}}}"
        pages[f"reference/{name}.md"] = "\n\n".join(parts) + "\n"
    return pages


REFERENCE = reference()
SYMBOLS = {symbol: page for page, text in REFERENCE.items() for symbol in re.findall(r"^::: (\S+)", text, re.M)[1:]}
MODULES = {page.removeprefix("reference/").removesuffix(".md"): page for page in REFERENCE}


def on_config(config):
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = list(REFERENCE)
    return config


def on_files(files, config):
    from mkdocs.structure.files import File

    for path, uri in FILES.items():
        text = (ROOT / path).read_text()
        text = text if text.startswith("# ") else f"# All figures\n\n{text}"
        files.append(File.generated(config, uri, content=text))
    for uri, text in REFERENCE.items():
        files.append(File.generated(config, uri, content=text))
    return files


def measured() -> str:
    """The benchmark's part of the README."""
    found = MEASURED.search((ROOT / "README.md").read_text())
    if not found:
        raise ValueError("README.md has no benchmark between its two marks.")
    return found[1].replace("<details>", '<details markdown="1">')


def on_page_markdown(markdown, *, page, config, files):
    uri = page.file.src_uri
    if uri in WIDE:
        page.meta["hide"] = ["toc"]
    path = next((path for path, name in FILES.items() if name == uri), f"docs/{uri}")
    if path == "README.md":
        markdown = MEASURED.sub("The results are [here](docs/benchmarks.md).\n", markdown)
    if "<!-- benchmark of the README -->" in markdown:  # its links are the README's
        part = _links(measured(), "README.md", uri)
        before, _, after = markdown.partition("<!-- benchmark of the README -->")
        return _links(before, path, uri) + part + _links(after, path, uri)
    markdown = "".join(p if p.startswith("```") else _formulas(p) for p in FENCED.split(markdown))
    return _links(markdown, path, uri)


def _formulas(text: str) -> str:
    """Formulas in LaTeX, each between two lines of $$, as MathML, which browsers show without any script."""
    from latex2mathml.converter import convert

    block = lambda found: f'<div class="formula">{convert(found[1], display="block")}</div>'
    return re.sub(r"^\$\$\n(.*?)\n\$\$$", block, text, flags=re.M | re.S)


def _links(text: str, path: str, uri: str) -> str:
    """Links of the file at `path` of the repository, as those of the page `uri`; of others the text alone."""

    def link(found):
        image, label, target, anchor = found.groups()
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if there in FILES:
            there = f"docs/{FILES[there]}"
        if there.startswith("docs/"):
            relative = os.path.relpath(there.removeprefix("docs/"), posixpath.dirname(uri) or ".")
            return f"{image}[{label}]({relative}{anchor or ''})"
        return label if (ROOT / there).exists() else found[0]

    return "".join(p if p.startswith("```") else LINK.sub(link, p) for p in FENCED.split(text))


def on_page_content(html, *, page, config, files):
    """Names of public functions and modules in running text lead to the reference."""

    def link(found):
        whole, name = found[0], found["name"]
        target = SYMBOLS.get(name) or MODULES.get(name)
        of_group = name == "jconv.algorithms" and found.string[: found.start()].endswith("group ")  # of entry points
        if of_group or name == "jconv" or target is None or target == page.file.src_uri:
            return whole
        url = files.get_file_from_path(target).url_relative_to(page.file)
        return f'<a href="{url}{"#" + name if name in SYMBOLS else ""}">{whole}</a>'

    skipped = r"<pre.*?</pre>|<a .*?</a>|<h\d.*?</h\d>"
    return re.sub(rf"{skipped}|<code>(?P<name>jconv[\w.]*)(\([^<]*\))?</code>", link, html, flags=re.S)


def on_post_build(config):
    """The reference that was built has every public symbol."""
    from mkdocs.exceptions import PluginError

    for symbol, uri in SYMBOLS.items():
        built = Path(config.site_dir) / uri.removesuffix(".md") / "index.html"
        if f'id="{symbol}"' not in built.read_text():
            raise PluginError(f"{symbol} is public, but {built} does not have it.")
