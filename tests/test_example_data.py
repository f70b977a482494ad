"""The examples on data that packages ship: the data, the splits, the baselines, and a quick run of each."""

from __future__ import annotations

import json
import re

import baselines
import denoise_unet
import faces_25
import jax
import numpy as np
import packaged
import patches_39
import pytest
import series_1d
from files import InputError
from jax import numpy as jnp
from PIL import Image
from scipy.spatial.distance import cdist

import jconv

pytestmark = pytest.mark.standard_modes  # optax, which they train by, promotes its step counts

COMMON = {"checkpoints", "config.json", "learning_curves.png", "metrics.jsonl"}
FILES = {
    faces_25: {"confusion_matrix.png", "filters.png", "least_sure.png"},
    patches_39: {"confusion_matrix.png", "filters.png", "places.png", "params.safetensors"},
    series_1d: {"confusion_matrix.png", "filters.png", "evidence.png", "params.safetensors"},
    denoise_unet: {"before_and_after.png", "params.safetensors"},
}
ROWS = {"step", "epoch", "train_loss", "test_loss"}
MEASURES = {
    faces_25: "test_accuracy",
    patches_39: "test_accuracy",
    series_1d: "test_accuracy",
    denoise_unet: "test_psnr",
}
SCRIPTS = pytest.mark.parametrize("script", FILES, ids=lambda script: script.__name__)


# Quick runs ----------------------------------------------------------------------------------------------
@SCRIPTS
def test_quick_run_writes_everything(script, tmp_path, capsys):
    assert script.main(["--quick", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == COMMON | FILES[script]
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300, path.name
            assert len(set(np.asarray(image.convert("L")).ravel())) > 20, f"{path.name} is blank"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    unit = "series" if script is series_1d else "images"
    for row in rows:
        assert set(row) - {"fit"} == ROWS | {MEASURES[script], f"{unit}_per_second"}
        assert all(np.isfinite(value) for name, value in row.items() if name != "fit")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["seed"] == 0
    assert config["quick"] is True
    assert config["baselines"]
    assert np.isfinite(config[MEASURES[script]])
    printed = capsys.readouterr().out
    assert "wrote to" in printed
    if script is series_1d:  # even the quick one
        assert config["test_accuracy"] > config["baselines"]["nearest neighbour"] == pytest.approx(0.913, abs=5e-4)
    if script is faces_25:
        assert len(rows) == config["folds"] * config["epochs"]
        # No image is counted twice: what both get right, what one of them does, and what none does.
        share = config["test_accuracy"] - config["baselines"]["logistic regression"]
        assert 200 * share == pytest.approx(config["only_network_right"] - config["only_baseline_right"])


@SCRIPTS
def test_help_tells_baseline_and_defaults(script, capsys):
    with pytest.raises(SystemExit, match="0"):
        script.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("--resume", "--seed", "--quick", "with --quick", "baseline"):
        assert words in text


# Data ----------------------------------------------------------------------------------------------------
def test_faces():
    images, labels = packaged.faces()
    assert images.shape == (200, 25, 25, 1)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.tolist() == [1] * 100 + [0] * 100
    assert len(np.unique(images.reshape(200, -1), axis=0)) == 200  # no image in two folds under two numbers


def test_faces_are_each_held_out_once():
    held_out = faces_25.folds(3, 100)
    assert sorted(np.concatenate(held_out)) == list(range(200))
    for rows in held_out:
        assert len(rows) == 40
        assert set(rows[rows < 100] + 100) == set(rows[rows >= 100])  # as many of each, and of the same photographs
    assert not np.array_equal(held_out[0], faces_25.folds(4, 100)[0])


def test_face_network_begins_with_120_parameters():
    table = jconv.summary(faces_25.face_network(), faces_25.INPUT_SHAPE)
    assert table.rows[0].parameters == 120
    assert tuple(table.rows[0].output_shape[1:]) == (23, 23, 12)


@pytest.mark.parametrize("name", packaged.PHOTOGRAPHS)
def test_photographs(name):
    sizes = {
        "astronaut": (512, 512), "chelsea": (300, 451), "coffee": (400, 600), "hubble": (872, 1000),
        "retina": (1411, 1411),
    }  # fmt: skip
    image = packaged.photograph(name)
    assert image.shape == (*sizes.get(name, (427, 640)), 3)
    assert image.dtype == np.uint8
    assert image.std() > 20


def test_patches_are_what_lies_at_their_corners():
    data = patches_39.patches("test", 13)
    assert data.images.shape == (374, 39, 39, 3)
    assert data.labels.sum() == 189
    assert set(data.names[data.labels == 1]) == {"chelsea"}
    for name, (row, column), image in zip(data.names[::40], data.corners[::40], data.images[::40], strict=True):
        np.testing.assert_array_equal(packaged.photograph(name)[row : row + 39, column : column + 39], image)
    counts = np.unique(data.names[data.labels == 0], return_counts=True)[1]
    assert counts.tolist() == [189 // 5] * 5


def covered(data: patches_39.Patches, rows) -> dict[str, np.ndarray]:
    """For each photograph, which of its pixels are in these patches."""
    masks = {name: np.zeros(packaged.photograph(name).shape[:2], bool) for name in set(data.names)}
    for name, (row, column) in zip(data.names[rows], data.corners[rows], strict=True):
        masks[name][row : row + 39, column : column + 39] = True
    return masks


def test_no_pixel_is_trained_on_and_tested_on():
    train, test = patches_39.patches("train", 9), patches_39.patches("test", 13)
    assert len(train.images) == 1800
    assert train.labels.mean() == 0.5
    ours, theirs = covered(train, slice(None)), covered(test, slice(None))
    assert ours.keys() == theirs.keys() == {patches_39.CAT, *patches_39.OTHERS}
    for name in ours:
        assert ours[name].any()
        assert theirs[name].any()
        assert not np.any(ours[name] & theirs[name]), name
    for fit, choose in patches_39.halves(train):  # nor one that a penalty is chosen with and fitted to
        assert 0 < train.labels[fit].mean() < 1
        assert 0 < train.labels[choose].mean() < 1
        ours, theirs = covered(train, fit), covered(train, choose)
        assert not any(np.any(ours[name] & theirs[name]) for name in ours)


def test_colours_count_every_pixel():
    images = np.zeros((2, 39, 39, 3), np.uint8)
    images[1, :, :13] = (255, 64, 0)  # levels 3, 1, 0
    shares = patches_39.colours(images)
    assert shares.shape == (2, 64)
    assert shares[0, 0] == 1
    assert shares[1, [0, 16 * 3 + 4]] == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("name", "train", "test", "length", "classes", "accuracy"),
    [("OSULeaf", 200, 242, 427, 6, 0.521), ("GunPoint", 50, 150, 150, 2, 0.913)],
)
def test_series_and_their_published_baseline(name, train, test, length, classes, accuracy):
    data = packaged.series(name)
    assert data.train.shape == (train, length, 1)
    assert data.test.shape == (test, length, 1)
    assert data.classes == tuple(map(str, range(1, classes + 1)))
    assert set(data.train_labels) == set(data.test_labels) == set(range(classes))
    np.testing.assert_allclose(data.train.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(data.train.std(1, ddof=1), 1, atol=1e-4)
    found = baselines.nearest_neighbour(data.train, data.train_labels, data.test)
    assert np.mean(found == data.test_labels) == pytest.approx(accuracy, abs=5e-4)
    assert series_1d.PUBLISHED[name] == accuracy
    nearest = cdist(data.test[..., 0], data.train[..., 0]).argmin(1)
    np.testing.assert_array_equal(found, data.train_labels[nearest])


def test_outline_may_begin_anywhere():
    network = series_1d.series_network(3, "circular")
    params, state = network.init(jax.random.key(0), (-1, 40, 1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 40, 1)), jnp.float32)
    expected, _ = network.apply(params, state, x)
    turned, _ = network.apply(params, state, jnp.roll(x, 6, axis=1))  # an even number of points
    np.testing.assert_allclose(turned, expected, rtol=1e-4, atol=1e-6)


# Noise ---------------------------------------------------------------------------------------------------
def test_denoising_trains_and_tests_on_other_photographs():
    assert not set(denoise_unet.TRAIN) & set(denoise_unet.TEST)
    pieces = denoise_unet.crops(denoise_unet.TRAIN, 32)
    assert pieces.shape == (868, 64, 64, 3)
    np.testing.assert_array_equal(pieces[1], packaged.photograph(denoise_unet.TRAIN[0])[:64, 32:96])
    truths = denoise_unet.middles(denoise_unet.TEST)
    assert truths.shape == (2, 296, 448, 3)
    noise = denoise_unet.noisy(truths, seed=1) - truths
    assert noise.std() == pytest.approx(25 / 255, rel=0.01)
    np.testing.assert_array_equal(denoise_unet.noisy(truths, seed=1) - truths, noise)


def test_psnr():
    truth = np.full((1, 8, 8, 3), 0.5, np.float32)
    assert denoise_unet.psnr(truth + 0.1, truth)[0] == pytest.approx(20)
    assert denoise_unet.psnr(truth + 9, truth)[0] == pytest.approx(-10 * np.log10(0.25))  # clipped to 1


def test_gaussian_filter_does_not_mix_images_or_colours():
    images = np.zeros((2, 9, 9, 3))
    images[0, 4, 4, 1] = 1
    smooth = denoise_unet.gaussian(images, 1.0)
    assert smooth[0, ..., 1].sum() == pytest.approx(1)
    assert smooth.sum() == pytest.approx(1)
    assert smooth[0, 4, 5, 1] / smooth[0, 4, 4, 1] == pytest.approx(np.exp(-0.5), rel=1e-3)


# What may go wrong ---------------------------------------------------------------------------------------
def test_missing_package_or_file(monkeypatch, tmp_path, capsys):
    with pytest.raises(InputError, match=r"data/none.npy: there is no such file .* pip install 'scikit-image>=0.24'"):
        packaged.find("skimage", "data/none.npy")
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    message = r"OSULeaf_TRAIN.ts comes with the package sktime, which is not installed; .*pip install 'sktime>=0.38'"
    with pytest.raises(InputError, match=message):
        packaged.series("OSULeaf")
    assert faces_25.main(["--quick", "--out", str(tmp_path / "out")]) == 2
    assert re.search(r"faces_25.py: error: .*lfw_subset.npy comes with the package skimage", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2:1\n", "no line @data"),
        ("@data\n1,2:1\n1,2,3:1\n", "all of one length"),
        ("@data\n1,x:1\n", "could not convert string to float: 'x'; accepted are series of numbers"),
    ],
)
def test_damaged_series(tmp_path, text, expected):
    (tmp_path / "a.ts").write_text(text)
    with pytest.raises(InputError, match=expected):
        packaged.read_ts(tmp_path / "a.ts")


def test_series_file(tmp_path):
    (tmp_path / "a.ts").write_text("# about\n@classLabel true a b\n@DATA\n1,2.5,-3:a\n\n0,0,1e-3:b\n")
    values, labels = packaged.read_ts(tmp_path / "a.ts")
    np.testing.assert_array_equal(values, [[1, 2.5, -3], [0, 0, 1e-3]])
    assert labels.tolist() == ["a", "b"]
