"""The layer libraries with jconv: the drop-in, the programs of the documentation, and their own tests of convolution."""

import re
from pathlib import Path

import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from jconv._accelerate._role import View
from tests import peer_suites

pytestmark = pytest.mark.standard_modes  # which the libraries take for granted


def test_flax_takes_the_drop_in_as_an_argument():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 12, 12, 3)), jnp.float32)
    nnx = pytest.importorskip("flax.nnx")
    options = {"strides": 2, "padding": "CIRCULAR", "feature_group_count": 3}
    plain = nnx.Conv(3, 9, (3, 3), rngs=nnx.Rngs(0), **options)
    mine = nnx.Conv(3, 9, (3, 3), rngs=nnx.Rngs(0), conv_general_dilated=jconv.lax.conv_general_dilated, **options)
    np.testing.assert_allclose(mine(x), plain(x), rtol=1e-5, atol=1e-5)


PAGE = Path(__file__).parent.parent / "docs" / "libraries.md"
PROGRAMS = re.findall(r"^## (.*?)$.*?^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize(("title", "program"), PROGRAMS, ids=[title for title, _ in PROGRAMS])
def test_programs_of_the_documentation(title, program, monkeypatch):
    module = {"Flax nnx": "flax.nnx", "Flax linen": "flax.linen", "Haiku": "haiku", "Equinox": "equinox"}
    library = pytest.importorskip(module.get(title, "keras"))
    if title.startswith("Keras") and library.backend.backend() != "jax":
        pytest.skip("keras is not on jax")
    roles = set()
    compute = View.compute
    monkeypatch.setattr(View, "compute", lambda view, *args: roles.add(view.role) or compute(view, *args))
    run = lambda: exec(compile(program, f"{PAGE.name}, {title}", "exec"), namespace := {}) or namespace["losses"]
    losses = run()
    assert roles == {"forward", "kernel_grad"}
    monkeypatch.setattr(jconv, "accelerate", lambda fn: fn)
    np.testing.assert_allclose(losses, run(), rtol=1e-4)
    assert losses[-1] < losses[0]


CONV = "jax.lax.conv_general_dilated(jnp.ones((1, 2, 5)), jnp.ones((3, 2, 3)), (1,), 'SAME')"
CHECKOUT = f"""
import jax
from jax import numpy as jnp
from jax._src.lax.convolution import conv_transpose  # a reference of its own

def test_right():
    assert {CONV}.shape == (1, 3, 5)
    assert "jconv[" in str(jax.make_jaxpr(lambda x: conv_transpose(x, x, (1,), "SAME"))(jnp.ones((2, 1, 1))))

def test_lax_alone():
    assert "conv_general_dilated[" in str(jax.make_jaxpr(lambda: {CONV})())

def test_neither():
    assert 1 == 2
"""


def test_the_script_that_runs_the_suites_of_others(tmp_path, capsys):
    """On a checkout as Haiku's is laid out: what fails with jconv alone is told from what fails with lax too."""
    pytest.importorskip("haiku")
    folder = tmp_path / "haiku" / "_src"
    folder.mkdir(parents=True)
    (folder / "conv_test.py").write_text(CHECKOUT)
    (folder / "depthwise_conv_test.py").write_text("")
    assert peer_suites.main(["--haiku", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 passed, 2 failed,\n  0 skipped; 3 calls reached jconv, which computed" in out
    assert re.search(r"FAILS WITH JCONV ALONE: \S+::test_lax_alone: ", out)
    assert re.search(r"fails with lax too: \S+::test_neither: assert 1 == 2", out)
    with pytest.raises(SystemExit):
        peer_suites.main([])
