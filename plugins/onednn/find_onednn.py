"""Prints where oneDNN's headers and its library lie, for CMake: `include;library`."""

from importlib import metadata


def place(package: str, ending: str) -> str:
    files = metadata.files(package) or []
    return next(str(file.locate().resolve()) for file in files if str(file).endswith(ending))


header = place("onednn-devel-cpu-gomp", "include/oneapi/dnnl/dnnl.hpp")
print(header.removesuffix("/oneapi/dnnl/dnnl.hpp") + ";" + place("onednn-cpu-gomp", "libdnnl.so.3"))
