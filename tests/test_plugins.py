"""Algorithms of other distributions: found, refused, left out, and kept out of what is exported."""

import json
import types

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from jconv import plugins
from jconv.__main__ import main
from jconv._algorithms import ALGORITHMS, xla
from jconv.plugins import Algorithm, Work

X, K = jnp.linspace(-1, 1, 2 * 9 * 8 * 3).reshape(2, 9, 8, 3), jnp.linspace(1, 2, 3 * 3 * 3 * 4).reshape(3, 3, 3, 4)


def free(**changes):
    """XLA's convolution under another name, at no price."""
    fields = {
        "name": "mine",
        "forward": xla.forward,
        "input_grad": xla.input_grad,
        "kernel_grad": xla.kernel_grad,
        "supports": lambda call: None if call.spec.rank == 2 else "mine takes images",
        "work": lambda call: Work(),
        "portable": False,
    }
    return Algorithm(**{**fields, **changes})


@pytest.fixture
def found(monkeypatch):
    """Makes functions the entry points that are found."""
    monkeypatch.delenv("JCONV_PLUGINS", raising=False)

    def set_up(**makers):
        def point(name, make):
            return types.SimpleNamespace(
                name=name, value=f"there:{name}", load=lambda: make, dist=types.SimpleNamespace(name=name, version="7")
            )

        points = [point(name, make) for name, make in makers.items()]
        monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: points if group == plugins.GROUP else [])
        plugins.plugins.cache_clear()

    yield set_up
    monkeypatch.undo()
    plugins.plugins.cache_clear()


def lowered(fn, *args):
    return jax.jit(fn).lower(*args).as_text(debug_info=True)


def test_it_is_an_algorithm_like_the_others(found):
    plain = jconv.conv(X, K, algorithm="xla")
    found(theirs=free)
    assert "mine" in jconv.algorithms()
    for role in ("forward", "input_grad", "kernel_grad"):
        chosen = jconv.select_algorithm(X.shape, K.shape, role=role, platform="cpu")
        assert chosen.name == "mine"
    fn = lambda x, k: jconv.conv(x, k)
    np.testing.assert_array_equal(jax.jit(fn)(X, K), plain)
    assert "jconv.forward.mine" in lowered(fn, X, K)
    assert "jconv.kernel_grad.mine" in lowered(jax.grad(lambda k: fn(X, k).sum()), K)
    assert "jconv.kernel_grad.swap+mine" in lowered(
        lambda x, g: jconv.conv_kernel_grad(x, g, (3, 3), algorithm="swap+mine"), X, plain
    )
    with pytest.raises(ValueError, match="mine takes images"):
        jconv.conv(X[0, 0], K[0], algorithm="mine")


def test_an_exported_program_does_without_it(found):
    found(theirs=free)
    exported = jax.export.export(jax.jit(lambda x, k: jconv.conv(x, k)), platforms=("cpu",))(X, K)
    assert "jconv.forward.xla" in exported.mlir_module() or "mine" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(X, K), jconv.conv(X, K, algorithm="xla"), rtol=1e-5)
    with pytest.raises(ValueError, match="compiled code, which an exported program cannot carry"):
        jax.export.export(jax.jit(lambda x, k: jconv.conv(x, k, algorithm="mine")), platforms=("cpu",))(X, K)


def broken():
    raise OSError("libmissing.so.3: cannot open shared object file")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (broken, "OSError: libmissing.so.3: cannot open shared object file"),
        (lambda: "an algorithm", "TypeError: there:theirs gave 'an algorithm', accepted is a jconv.plugins.Algorithm"),
        (lambda: free(name="xla"), "ValueError: its name is 'xla', accepted is an identifier other than xla"),
        (lambda: free(name="a+b"), "ValueError: its name is 'a[+]b', accepted is an identifier other than"),
    ],
    ids=["raises", "another-type", "name-taken", "name-of-a-plan"],
)
def test_what_does_not_load_is_left_out_with_one_warning(found, capsys, make, why):
    found(theirs=make, ours=free)
    with pytest.warns(RuntimeWarning, match=f"goes on without the plug-in 'theirs' of theirs 7.*{why}") as caught:
        assert jconv.algorithms()[-1] == "mine"
    assert len(caught) == 1
    jconv.conv(X, K)
    assert main(["algorithms", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1]["kind"] == "plug-in"
    assert rows[-1]["distribution"] == "theirs 7"
    assert main(["algorithms"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "The plug-in theirs of theirs 7 does not load:" in text
    assert "The plug-in ours of ours 7 is loaded." in text


def test_switched_off(found, monkeypatch):
    monkeypatch.setenv("JCONV_PLUGINS", "off")
    found(theirs=broken, ours=free)
    assert "mine" not in jconv.algorithms()
    assert jconv.select_algorithm(X.shape, K.shape, platform="cpu").name != "mine"


def test_an_algorithm_that_is_registered_later_is_considered_and_one_that_is_gone_is_not(monkeypatch):
    """After "auto" was asked for the same call, and ran it, outside jit and inside."""
    ran = []

    def counted(name):
        def forward(x, kernel, call):
            ran.append(name)
            return xla.forward(x, kernel, call)

        return free(forward=forward, portable=True)

    choose = lambda: jconv.select_algorithm(X.shape, K.shape, platform="cpu").name
    before, want = choose(), jconv.conv(X, K)
    assert before != "mine"
    for name in ("first", "second"):  # under the same name, too
        monkeypatch.setitem(ALGORITHMS, "mine", counted(name))
        assert choose() == "mine"
        ran.clear()
        np.testing.assert_allclose(jconv.conv(X, K), want, rtol=1e-4, atol=1e-4)
        assert set(ran) == {name}
        jconv.conv(X, K)
        assert ran.count(name) == len(ran)
        assert "jconv.forward.mine" in lowered(lambda x, k: jconv.conv(x, k), X, K)
    monkeypatch.delitem(ALGORITHMS, "mine")
    assert choose() == before
    ran.clear()
    np.testing.assert_array_equal(jconv.conv(X, K), want)
    assert not ran
    with pytest.raises(ValueError, match="algorithm: got 'mine'"):
        jconv.conv(X, K, algorithm="mine")
