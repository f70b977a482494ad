"""One reflection over everything public: docstrings with all sections, keyword-only options, `key`, no **kwargs."""

import dataclasses
import inspect
import re

import pytest

import jconv
from jconv import initializers

from .reflection import public_modules, symbols

SECTIONS = ("Args:", "Returns:", "Raises:", ">>>", "References:")


def public():
    found = {}
    for module in public_modules():
        for name, value in symbols(module).items():
            # the functions of jconv.lax are documented, and have the signatures, of jax.lax
            if module is not jconv.lax and getattr(value, "__module__", "").startswith(module.__name__):
                found[f"{module.__name__}.{name}"] = value
    return found


PUBLIC = public()
POSITIONAL = {("jconv.layers.GroupNorm", "num_groups"), ("jconv.interop.from_haiku", "state"),
              ("jconv.interop.from_equinox", "module_state"), ("jconv.interop.to_equinox", "module_state"),
              ("jconv.interop.flatten", "state")}  # fmt: skip
POSITIONAL |= {(f"jconv.{name}", p) for name in ("convolve", "correlate") for p in ("mode", "method")}  # as in SciPy
RECORDS = {name for name, value in PUBLIC.items() if inspect.isclass(value) and issubclass(value, tuple)}
everything = pytest.mark.parametrize("name", sorted(PUBLIC))


def test_the_reflection_sees_the_api():
    names = {name.rpartition(".")[2] for name in PUBLIC}
    wanted = """conv conv_transpose conv_local conv_input_grad conv_kernel_grad conv_bias_grad max_pool avg_pool ConvSpec
        select_algorithm Algorithms summary Conv ConvTranspose DepthwiseConv SeparableConv ConvLocal Dense BatchNorm
        GroupNorm LayerNorm LayerScale StochasticDepth Dropout MaxPool AvgPool GlobalAvgPool Flatten Activation Sequential Residual Parallel Layer
        resnet50 mobilenet_v2 unet convolve correlate from_torch to_keras read_safetensors glorot_uniform he_normal lecun_normal torch_default VarianceScaling fans
        filters feature_maps learning_curves confusion_matrix receptive_field saliency""".split()
    assert names >= set(wanted)
    for module in (jconv, jconv.layers, jconv.interop):  # whose namespace is what they export
        there = {name for name, v in vars(module).items() if callable(v) and not name.startswith("_")}
        assert there == set(symbols(module))


@everything
def test_docstrings(name):
    doc = inspect.getdoc(PUBLIC[name])
    assert doc, "no docstring"
    assert doc.splitlines()[0].endswith((".", ":")), "the first line is not a sentence"
    if name in RECORDS:
        return
    missing = [section for section in SECTIONS if section not in doc]
    assert not missing
    if name.startswith("jconv.conv") or ".layers." in name:
        assert re.search(r"=|zero", doc), "no equation"


@everything
def test_every_argument_is_documented(name):
    value = PUBLIC[name]
    if name in RECORDS:
        return
    arguments = inspect.getdoc(value).partition("Args:")[2].partition("Returns:")[0]
    for parameter in inspect.signature(value).parameters.values():
        if not parameter.name.startswith("_"):
            assert re.search(rf"^\s*\*?{parameter.name}:", arguments, re.M), f"{parameter.name} is not documented"


@everything
def test_signatures(name):
    value = PUBLIC[name]
    if inspect.isclass(value):  # records are built by field
        assert dataclasses.is_dataclass(value) or issubclass(value, tuple)
        return
    for parameter in inspect.signature(value).parameters.values():
        assert parameter.kind is not parameter.VAR_KEYWORD
        assert parameter.name not in ("rng", "seed", "prng"), "PRNG arguments are called key"
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not parameter.empty:
            plain = parameter.name in ("bias", "dtype") or (name, parameter.name) in POSITIONAL
            assert plain, f"{parameter.name} is an option, so it must be keyword-only"
        if "layers" not in name:
            assert parameter.annotation is not parameter.empty


def test_initializers_are_called_alike():
    for name in ("zeros", "ones"):
        assert list(inspect.signature(getattr(initializers, name)).parameters) == ["key", "shape", "dtype"]
    call = inspect.signature(initializers.VarianceScaling.__call__).parameters
    assert list(call)[1:4] == ["key", "shape", "dtype"]


def test_repr_of_a_specification_names_what_is_not_the_default():
    spec = jconv.ConvSpec((1, 8, 2), (3, 1, 4), strides=2, feature_group_count=2)
    assert repr(spec) == "ConvSpec([1,8,2]*[3,1,4]->[1,4,4],strides=(2,),padding=((0,1),),feature_group_count=2)"
