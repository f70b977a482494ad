"""The direction of imports, read from the source: each module imports only from those above it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "jconv"
ORDER = [
    "_version",
    "_names",
    "_spec",
    "_forecast",
    "_algorithms",
    "_dtypes",
    "_padding",
    "plugins",
    "_plan",
    "_files",
    "_cache",
    "_select",
    "_partition",
    "_primitive",
    "_jaxprs",
    "_conv",
    "_windows",
    "sharding",
    "_layouts",
    "_accelerate",
    "lax",
    "_signal",
    "_stream",
    "_pool",
    "initializers",
    "layers",
    "models",
    "plot",
    "interop",
    "_tune",
    "_calibrate",
    "__main__",
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(path):
    """Full names of all that a file imports, relative ones resolved."""
    here = ["jconv", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def place(name):
    return ORDER.index(name.split(".")[1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_direction(path):
    own = place(f"jconv.{path.relative_to(PACKAGE).with_suffix('').parts[0]}")
    for name in imports(path):
        root = name.split(".")[0]
        assert not name.startswith("jax._src"), "jax._src is private"
        if name.startswith(("jax.extend", "jax.interpreters")):
            assert path.name == "_primitive.py", "only the primitive imports these"
        if root == "jconv":
            assert place(name) <= own, f"{path.name} imports {name} from below it"
        else:
            allowed = ("jax", "numpy", "__future__", *EXTRAS.get(path.relative_to(PACKAGE).as_posix(), ()))
            assert root in allowed or root in STANDARD, f"{root} is no runtime dependency"


EXTRAS = {"interop/files.py": ("safetensors",), "plot.py": ("matplotlib",)}  # imported when they are used
STANDARD = {
    "argparse",
    "ast",
    "collections",
    "concurrent",
    "contextlib",
    "dataclasses",
    "datetime",
    "difflib",
    "fcntl",
    "fractions",
    "functools",
    "importlib",
    "inspect",
    "itertools",
    "json",
    "math",
    "msvcrt",
    "operator",
    "os",
    "pathlib",
    "platform",
    "random",
    "re",
    "statistics",
    "sys",
    "textwrap",
    "threading",
    "time",
    "types",
    "typing",
    "warnings",
}


@pytest.mark.parametrize("path", sorted((PACKAGE / "_algorithms").glob("*.py")), ids=lambda path: path.stem)
def test_an_algorithm_imports_only_the_interface(path):
    if path.stem in ("__init__", "base"):
        return  # "_gather" is what the algorithms over taps share, "_activations" what a forward pass ends with
    own = {name for name in imports(path) if name.startswith("jconv")}
    shared = tuple(f"jconv._algorithms.{name}" for name in ("base", "_gather", "_activations"))
    allowed = (*shared, "jconv._spec", "jconv._forecast.work")
    assert all(name.startswith(allowed) for name in own)


def test_no_file_is_large():
    assert all(path.stat().st_size < 40_000 for path in FILES)
