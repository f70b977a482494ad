"""The examples: they run, their backprop by hand is right, and what they are given is checked."""

from __future__ import annotations

import gzip
import json
import os

import digits
import files
import jax
import lenet_backprop
import lenet_digits
import numpy as np
import pytest
import scipy.io.wavfile
import scipy.ndimage
import streaming_sound
import weight_sharing
from jax import numpy as jnp
from PIL import Image

import jconv
from jconv import models

pytestmark = pytest.mark.standard_modes  # which scripts run in

METRICS = {"step", "epoch", "train_loss", "test_loss", "test_accuracy", "images_per_second"}
WRITTEN = (
    "checkpoints", "config.json", "confusion_matrix.png", "feature_maps.png", "filters.png", "learning_curves.png",
    "metrics.jsonl", "params.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def packaged():
    """The packaged digits, read once, without `genfromtxt`, with which it takes seconds longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "genfromtxt", np.loadtxt)
        digits.packaged_digits()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a quick run."""
    out = tmp_path_factory.mktemp("lenet")
    assert lenet_digits.main(["--quick", "--out", str(out)]) == 0
    return out


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4) for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 30), ("test", 20)):
        made[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28))
        made[f"{part}_labels"] = np.arange(count) % 10
    return made


def write_idx(folder, arrays, compressed: bool = False) -> None:
    for part, name in digits.IDX_FILES.items():
        content = idx(arrays[part])
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(content) if compressed else content)


def zeros():
    """Parameters of LeNet-5, all of them zero."""
    shapes = jax.eval_shape(lambda key: models.lenet5().init(key, lenet_digits.INPUT_SHAPE)[0], jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def fails(capsys, *argv) -> str:
    """Runs the script, which must end with exit code 2 and no traceback, and returns its message."""
    try:
        code = lenet_digits.main([str(word) for word in argv])
    except SystemExit as end:  # from argparse
        code = end.code
    message = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in message
    return message


# The run -------------------------------------------------------------------------------------------------
def test_quick_run_writes_everything(trained):
    assert sorted(path.name for path in trained.iterdir()) == list(WRITTEN)
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [METRICS]
    assert rows[0]["step"] == 4
    assert 0 <= rows[0]["test_accuracy"] <= 1
    for path in trained.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300
            assert np.asarray(image.convert("L")).std() > 5, "the picture shows nothing"
    config = json.loads((trained / "config.json").read_text())
    assert config["parameters"] == 61706
    assert config["epochs"] == 1


def test_backprop_by_hand_agrees_with_grad(trained):
    agreement = json.loads((trained / "config.json").read_text())["gradient_agreement"]
    assert 0 < agreement["float32"] < 1e-5
    assert 0 < agreement["float64"] < 1e-12


def test_first_layer_is_lenets():
    row = jconv.summary(models.lenet5(), lenet_digits.INPUT_SHAPE).rows[0]
    assert (row.name, row.output_shape, row.parameters, row.connections) == ("c1", (-1, 28, 28, 6), 156, 122304)


def test_augment_keeps_shape_and_changes_images():
    x = lenet_digits.to_input(np.full((3, 28, 28), 255, np.uint8))
    y = jax.jit(lenet_digits.augment)(jax.random.key(0), x)
    assert y.shape == x.shape
    assert 0 <= float(y.min()) <= float(y.max()) <= 1
    assert not np.allclose(y[0], y[1])


def test_weight_sharing(tmp_path, capsys):
    assert weight_sharing.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "config.json").read_text())["results"]
    assert (results["shared"]["c1_parameters"], results["unshared"]["c1_parameters"]) == (156, 122304)
    assert results["unshared"]["parameters"] - results["shared"]["parameters"] == 122304 - 156 == 784 * 156 - 156
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.pop("fit") for row in rows] == ["shared-0", "unshared-0"]
    for row, result in zip(rows, results.values(), strict=True):
        assert set(row) == METRICS
        assert [row["test_accuracy"]] == result["test_accuracy"]
        assert result["errors_when_moved"][0][0] == pytest.approx(1 - row["test_accuracy"])
    with Image.open(tmp_path / "weight_sharing.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert "C1 unshared: 122,304 parameters of 183,854" in capsys.readouterr().out


def test_moved_images():
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 7)).astype(np.uint8)
    ways = ((0, -2, 0), (0, 2, 0), (0, 0, -2), (0, 0, 2))  # up, down, left, right
    for got, shift in zip(weight_sharing.moved(images, 2), ways, strict=True):
        np.testing.assert_array_equal(got, scipy.ndimage.shift(images, shift, order=0))


def test_bfloat16_computes_but_keeps_float32():
    network = models.lenet5()
    params = jax.tree.map(jnp.asarray, zeros())
    batch = {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.zeros(2, np.int32)}
    loss = lenet_digits.make_loss(network, augmented=False, dtype="bfloat16")
    jaxpr = jax.make_jaxpr(lambda p: jax.value_and_grad(loss, has_aux=True)(p, {}, batch, None))(params)
    assert "bf16[2,28,28,6]" in str(jaxpr), "C1 is not computed in bfloat16"
    assert {aval.dtype for aval in jaxpr.out_avals} == {np.dtype("float32")}


# The parts of backprop -----------------------------------------------------------------------------------
def test_pool_ties_go_to_the_first_as_in_jconv():
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 6, 4, 3)), jnp.float32)  # full of ties
    g = jnp.arange(36.0).reshape(2, 3, 2, 3)
    y, winner = lenet_backprop.pool_forward(x)
    expected, vjp = jax.vjp(lambda x: jconv.max_pool(x, (2, 2)), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(lenet_backprop.pool_backward(winner, g), vjp(g)[0])


def test_relu_has_slope_zero_at_zero():
    assert lenet_backprop.relu_backward(jnp.array([-1.0, 0.0, 1.0]), jnp.ones(3)).tolist() == [0, 0, 1]


def test_largest_relative_difference():
    a, b = {"x": jnp.array([1.0, 2.0]), "y": jnp.zeros(2)}, {"x": jnp.array([1.0, 4.0]), "y": jnp.zeros(2)}
    assert lenet_backprop.largest_relative_difference(a, b) == 0.5
    assert lenet_backprop.largest_relative_difference(b, b) == 0
    with pytest.raises(ValueError, match=r"structure|key"):
        lenet_backprop.largest_relative_difference(a, {"x": b["x"]})


# Data ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_round_trip(tmp_path, arrays, compressed):
    write_idx(tmp_path, arrays, compressed)
    data = digits.idx_dataset(tmp_path)
    for part, expected in arrays.items():
        np.testing.assert_array_equal(getattr(data, part), expected)
    assert data.classes == digits.DIGITS


def test_fashion_is_known_by_its_folder(tmp_path, arrays):
    folder = tmp_path / "FashionMNIST"
    folder.mkdir()
    write_idx(folder, arrays)
    assert digits.idx_dataset(folder).classes == digits.FASHION


def test_packaged_split():
    data = digits.packaged_digits()
    assert np.bincount(data.train_labels).tolist() == [400] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-5], r"idx3-ubyte: truncated, got 23515 bytes .* accepted are 23520"),
        ("train-images-idx3-ubyte", lambda b: b[:9], r"truncated, got 9 bytes, accepted is a header of 16"),
        ("train-images-idx3-ubyte", lambda b: b + b"?", r"too long, got 23521 bytes .* accepted are 23520"),
        ("train-images-idx3-ubyte", lambda b: b"", r"truncated, got 0 bytes"),
        ("t10k-labels-idx1-ubyte", lambda b: b"\0\0\x08\3" + b[4:], r"got magic number 2051, accepted is 2049"),
        ("t10k-labels-idx1-ubyte", lambda b: gzip.compress(b)[:-9], r"t10k-labels.*: damaged gzip"),
        ("t10k-labels-idx1-ubyte", lambda b: idx(np.zeros(7)), r"got 20 images and 7 labels"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0b", r"got label 11, accepted are 0 to 9"),
        ("t10k-images-idx3-ubyte", lambda b: idx(np.zeros((20, 8, 8))), r"got 20×8×8 elements, accepted are 28×28"),
        ("t10k-images-idx3-ubyte", lambda b: idx(np.zeros((0, 28, 28))), r"got 0×28×28 elements, .* at least one"),
    ],
)  # fmt: skip
def test_damaged_idx(tmp_path, arrays, name, change, expected):
    write_idx(tmp_path, arrays)
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=expected) as caught:
        digits.idx_dataset(tmp_path)
    assert name in str(caught.value)


def test_missing_idx_files_are_listed(tmp_path, arrays, capsys):
    write_idx(tmp_path, arrays)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    message = fails(capsys, "--data", tmp_path, "--out", tmp_path / "out")
    assert "missing train-labels-idx1-ubyte, t10k-images-idx3-ubyte" in message
    assert "missing train-images-idx3-ubyte, train-labels" in fails(capsys, "--data", tmp_path / "nowhere")


# Predictions ---------------------------------------------------------------------------------------------
def test_predict(trained, tmp_path, capsys):
    Image.fromarray(digits.packaged_digits().test_images[0]).save(tmp_path / "zero.png")
    assert lenet_digits.main(["--predict", str(tmp_path / "zero.png"), "--out", str(trained)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    shares = {line.split()[0]: float(line.split()[1].rstrip("%")) for line in lines}
    assert sum(shares.values()) == pytest.approx(100, abs=1)
    assert shares[first.split()[-1]] == max(shares.values())


def test_picture_becomes_like_those_of_mnist(tmp_path):
    image = digits.packaged_digits().test_images[150]
    Image.fromarray(image).save(tmp_path / "same.png")
    np.testing.assert_array_equal(digits.load_image(tmp_path / "same.png"), image)
    # The same digit as a large photo: dark on light, off the middle, in colour.
    photo = Image.new("RGB", (400, 300), (230, 225, 220))
    large = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
    photo.paste((20, 20, 60), (150, 40), large)
    photo.save(tmp_path / "photo.png")
    again = digits.load_image(tmp_path / "photo.png")
    assert np.corrcoef(again.ravel(), image.ravel())[0, 1] > 0.9
    # 16 bits, and ink on a transparent ground
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(digits.load_image(tmp_path / "deep.png"), image)
    clear = np.zeros((28, 28, 4), np.uint8)
    clear[..., 3] = image
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert np.abs(digits.load_image(tmp_path / "clear.png").astype(int) - image).max() <= 2


def test_pictures_that_do_not_do(trained, tmp_path, capsys):
    Image.new("L", (50, 60), 255).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("this is no picture")
    Image.new("L", (300, 300)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    expected = {
        "blank.png": "the image is blank",
        "text.png": "not an image",
        "cut.png": "not an image",
        "none.png": "there is no such file",
    }
    for name, text in expected.items():
        message = fails(capsys, "--predict", tmp_path / name, "--out", trained)
        assert f"{tmp_path / name}: " in message
        assert text in message


def test_params_of_another_network(tmp_path, capsys):
    Image.new("L", (28, 28)).save(tmp_path / "any.png")
    params = zeros()
    params["extra"] = {"kernel": params.pop("f6")["kernel"]}
    params["c1"]["kernel"] = np.zeros((3, 3, 1, 6), np.float32)
    files.save_params(tmp_path / "params.safetensors", params, {})
    message = fails(capsys, "--predict", tmp_path / "any.png", "--out", tmp_path)
    assert "c1/kernel expected float32[5, 5, 1, 6], got float32[3, 3, 1, 6]" in message
    assert "missing f6/bias; missing f6/kernel; unexpected extra/kernel" in message
    (tmp_path / "params.safetensors").write_bytes(b"not safetensors at all")
    assert "no readable safetensors file" in fails(capsys, "--predict", tmp_path / "any.png", "--out", tmp_path)
    assert "train first" in fails(capsys, "--predict", tmp_path / "any.png", "--out", tmp_path / "nowhere")


def test_params_round_trip(tmp_path):
    tree = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T, "bias": np.ones(2, np.float32)}}
    files.save_params(tmp_path / "p.safetensors", tree, {"network": "small"})
    again, metadata = files.load_params(tmp_path / "p.safetensors", tree)
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    assert metadata == {"network": "small"}


# Arguments -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--algorithm", "fourier"], "invalid choice: 'fourier' (choose from"),
        (["--epochs", "0"], "--epochs: invalid positive integer value: '0'"),
        (["--epochs", "-3"], "--epochs: invalid positive integer value: '-3'"),
        (["--batch-size", "4001"], "--batch-size: got 4001, accepted is 1 to 4000"),
        (["--learning-rate", "nan"], "--learning-rate: invalid positive number value: 'nan'"),
        (["--seed", "-1"], "--seed: invalid non-negative integer value: '-1'"),
        (["--out", __file__], "accepted is a folder that can be written to"),
        (["--out", f"{__file__}/below"], "accepted is a folder that can be written to"),
    ],
)
def test_bad_arguments(capsys, argv, expected):
    assert expected in fails(capsys, *argv)


def test_help_tells_the_defaults(capsys):
    with pytest.raises(SystemExit, match="0"):
        lenet_digits.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("0.05 with --optimizer sgd, 0.003 with --optimizer adam", "train-images-idx3-ubyte", "runs/lenet"):
        assert words in text


# Files ---------------------------------------------------------------------------------------------------
def test_killed_while_writing_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    files.save_json_lines(path, [{"step": 1, "loss": 0.5}])
    before = path.read_bytes()

    def killed(descriptor):
        os.truncate(descriptor, 3)  # as if the rest had not come to the disk
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        files.save_json_lines(path, [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    with pytest.raises(KeyboardInterrupt):
        files.save_params(tmp_path / "params.safetensors", {"a": {"bias": np.ones(2)}}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert path.read_bytes() == before


# Streams -------------------------------------------------------------------------------------------------
def test_streaming_sound(tmp_path):
    """It plays, and 1,000 steps of both networks are the whole's; the files are what they say."""
    assert streaming_sound.main(["--quick", "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    for found in config["compared"].values():
        assert found["difference"] <= 1e-12 * max(1.0, found["largest"])
    rate, sound = scipy.io.wavfile.read(tmp_path / "played.wav")
    assert (rate, len(sound)) == (4000, 2000 + 400)
    assert np.abs(sound).max() > 1000
    assert {path.name for path in tmp_path.glob("*.png")} == {"sound.png", "times.png"}


def test_levels_of_sound():
    sound = np.linspace(-1, 1, 999)
    levels = streaming_sound.to_levels(sound)
    assert (levels.min(), levels.max()) == (0, streaming_sound.LEVELS - 1)
    assert np.abs(streaming_sound.from_levels(levels) - sound).max() < 0.07
    note = streaming_sound.string(220.0, 4000, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(note[2000:]))
    assert abs(np.argmax(spectrum) * 2 - 4000 / 18.5) <= 2  # Hz: 18 samples and a half, the nearest to 220
