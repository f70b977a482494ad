"""Data that other packages ship in their wheels, as NumPy arrays. Nothing is downloaded, and none of them is imported.

Where each comes from, how much there is of it and under which licence stands in docs/data.md.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from files import InputError
from PIL import Image

REQUIREMENTS = {"skimage": "scikit-image>=0.24", "sklearn": "scikit-learn>=1.5", "sktime": "sktime>=0.38"}
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
SERIES = ("OSULeaf", "GunPoint")


class Series(NamedTuple):
    """Series of one number a step, each with mean 0 and standard deviation 1, in the archive's own split."""

    train: np.ndarray  # float32, [count, length, 1]
    train_labels: np.ndarray  # int32, [count], from 0
    test: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]


def find(package: str, name: str) -> Path:
    """The file of this name in an installed package; InputError where the package or the file is missing."""
    spec = importlib.util.find_spec(package)
    command = f"pip install '{REQUIREMENTS[package]}'"
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{name} comes with the package {package}, which is not installed; accepted is: {command}.")
    path = Path(spec.submodule_search_locations[0], name)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file in the {package} that is installed; accepted is: {command}.")
    return path


def faces() -> tuple[np.ndarray, np.ndarray]:
    """100 faces and 100 pieces of background, float32 [200, 25, 25, 1] from 0 to 1, and int32 labels, 1 for a face."""
    images = np.load(find("skimage", "data/lfw_subset.npy")).astype(np.float32)[..., None]
    return images, np.repeat(np.array([1, 0], np.int32), 100)


def photograph(name: str) -> np.ndarray:
    """A photograph as bytes, [height, width, 3]."""
    with Image.open(find(*PHOTOGRAPHS[name])) as image:
        return np.asarray(image.convert("RGB"))


def series(name: str) -> Series:
    """A data set of the UCR archive."""
    arrays = [array for part in ("TRAIN", "TEST") for array in read_ts(_ts_file(name, part))]
    classes, labels = np.unique(np.concatenate(arrays[1::2]), return_inverse=True)
    train, test = (array.astype(np.float32)[..., None] for array in arrays[::2])
    split = np.split(labels.astype(np.int32), [len(train)])
    return Series(train, split[0], test, split[1], tuple(map(str, classes)))


def _ts_file(name: str, part: str) -> Path:
    return find("sktime", f"datasets/data/{name}/{name}_{part}.ts")


def read_ts(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Series of one length, [count, length], and their labels, text, from a file in the format of sktime.

    After comments (#) and a header (@) there is the line @data, then a series a line: its numbers with commas between
    them, a colon, its class.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    starts = [i for i, line in enumerate(lines) if line.lower() == "@data"]
    if not starts:
        raise InputError(f"{path}: got no line @data, accepted is a file of series in the format of sktime.")
    rows = [line.rpartition(":") for line in lines[starts[0] + 1 :] if line]
    try:
        values = np.array([[float(number) for number in numbers.split(",")] for numbers, _, _ in rows])
    except ValueError as error:  # no number, or rows of different lengths
        raise InputError(f"{path}: {error}; accepted are series of numbers, all of one length.") from error
    return values, np.array([label for _, _, label in rows])
