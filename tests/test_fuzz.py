"""A short run of the fuzz; `python -m tests.fuzz --count 2000` is the long one."""

import pytest

from tests import fuzz

pytestmark = pytest.mark.checked


@pytest.mark.parametrize("kind", sorted(fuzz.KINDS))
def test_random_calls(kind):
    for seed in range(3):
        _, found = fuzz.attempt(seed, kind)
        assert found is None, found


def test_a_failure_is_found_and_says_how_to_repeat_it(monkeypatch, capsys):
    """A sum that is off by one, and an error that lax does not raise."""
    wrong = fuzz.jconv.conv_bias_grad
    monkeypatch.setattr(fuzz.jconv, "conv_bias_grad", lambda g: wrong(g) + 1)
    kind, found = fuzz.attempt(3, "conv_bias_grad")
    assert kind == "conv_bias_grad"
    assert "differ" in found
    assert "python -m tests.fuzz --only conv_bias_grad --count 1 --seed 3" in found
    monkeypatch.setattr(fuzz.jconv, "conv_bias_grad", lambda g: 1 // 0)
    monkeypatch.setattr("sys.argv", ["fuzz", "--count", "2", "--only", "conv_bias_grad"])
    assert fuzz.main() == 1
    text = capsys.readouterr().out
    assert "ZeroDivisionError" in text
    assert "2 tried (2 conv_bias_grad); 2 failed" in text
