"""The examples on packaged data: what the data is, that splits are apart, and that each script runs through."""

import importlib
import json
import re

import numpy as np
import pytest
from PIL import Image

files = importlib.import_module("files")
packaged = importlib.import_module("packaged")
baselines = importlib.import_module("baselines")


@pytest.mark.parametrize(("name", "train", "test", "length", "published"), [
    ("OSULeaf", 200, 242, 427, 0.521), ("GunPoint", 50, 150, 150, 0.913),
])  # fmt: skip
def test_the_nearest_neighbour_has_the_published_accuracy(name, train, test, length, published):
    """Dau et al., the UCR time series archive: one less the error of 1-NN with Euclidean distance."""
    data = packaged.series(name)
    assert data.train.shape == (train, length, 1)
    assert data.test.shape == (test, length, 1)
    right = baselines.nearest_neighbour(data.train, data.train_labels, data.test) == data.test_labels
    assert round(float(np.mean(right)), 3) == published


def test_faces_and_their_folds():
    faces_25 = importlib.import_module("faces_25")
    images, labels = packaged.faces()
    assert images.shape == (200, 25, 25, 1)
    assert labels.sum() == 100
    folds = faces_25.folds(3, 100)
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(200))
    assert all(labels[rows].mean() == 0.5 for rows in folds)


def test_no_pixel_is_both_trained_and_tested_on():
    patches_39 = importlib.import_module("patches_39")
    for name in (patches_39.CAT, *patches_39.OTHERS):
        photograph = packaged.photograph(name)
        edge, width = patches_39.boundary(photograph), photograph.shape[1]
        train, test = (patches_39.corners(photograph, *columns, 8) for columns in ((0, edge), (edge, width)))
        assert train[:, 1].max() + patches_39.SIZE <= edge <= test[:, 1].min()
        assert test[:, 1].max() + patches_39.SIZE <= width


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    path = tmp_path / "bad.ts"
    path.write_text("@data\n1,2,3:a\n1,2:b\n")
    with pytest.raises(files.InputError, match=r"accepted are series of numbers, all of one length"):
        packaged.read_ts(path)
    path.write_text("1,2,3:a\n")
    with pytest.raises(files.InputError, match=r"got no line @data"):
        packaged.read_ts(path)
    monkeypatch.setitem(packaged.REQUIREMENTS, "no_such_package", "none>=1")
    with pytest.raises(files.InputError, match=r"no_such_package, which is not installed; accepted is: pip install"):
        packaged.find("no_such_package", "x")


@pytest.mark.parametrize("name", ["faces_25", "patches_39", "series_1d"])
def test_a_quick_run_writes_everything(name, tmp_path):
    script = importlib.import_module(name)
    assert script.main(["--quick", "--out", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"step", "epoch", "train_loss", "test_loss", "test_accuracy", "images_per_second"} <= set(rows[-1])
    assert 0 <= rows[-1]["test_accuracy"] <= 1
    assert re.search("baseline|logistic regression", (tmp_path / "config.json").read_text())
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) >= 3
    for path in pictures:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{path.name} shows nothing"
