"""Bad input: the error names the argument, what was given and what is accepted."""

import inspect
import pickle
import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jconv
from jconv import Algorithms, initializers, layers
from jconv._names import CALLED

ones = jnp.ones
image, kernel = ones((2, 8, 9, 3)), ones((3, 3, 3, 4))


@pytest.mark.parametrize(("call", "text"), [
    # layouts
    (lambda: jconv.conv(image, ones((16, 3, 5, 7))),
     r"x of shape \(2, 8, 9, 3\) has 3 channels .*\(16, 3, 5, 7\).* takes 5.*looks like OIHW: pass "
     r"kernel.transpose\(2, 3, 1, 0\)"),
    (lambda: jconv.conv(ones((2, 3, 8, 9)), kernel), r"x looks like NCHW: pass jax.numpy.moveaxis\(x, -3, -1\)"),
    (lambda: jconv.conv(ones((2, 3, 8, 9)), ones((16, 3, 5, 7))), "x looks like NCHW and the kernel like OIHW"),
    (lambda: jconv.conv(ones((2, 3, 80)), ones((5, 3, 16))), r"NCW: pass jax.numpy.moveaxis\(x, -2, -1\)"),
    (lambda: jconv.conv(ones((1, 4, 5, 6, 3)), ones((7, 3, 2, 2, 2))), r"OIDHW: pass kernel.transpose\(2, 3, 4, 1, 0\)"),
    # channels and groups
    (lambda: jconv.conv(image, ones((3, 3, 2, 4))), "has 3 channels and a kernel .* takes 2"),
    (lambda: jconv.conv(image, ones((3, 3, 1, 4)), feature_group_count=3), "got 3, which does not divide the 4 output"),
    (lambda: jconv.conv(image, kernel, feature_group_count=0), "feature_group_count: got 0, accepted is an integer of"),
    (lambda: jconv.conv(image, kernel, feature_group_count=1.5), "feature_group_count: got 1.5"),
    (lambda: jconv.conv(image, kernel, feature_group_count=True), "feature_group_count: got True"),
    (lambda: jconv.conv(ones(3), kernel), r"x: got shape \(3,\), accepted is \[\*batch, \*spatial, in\] with 2 spatial"),
    (lambda: jconv.conv(image, ones(3)), r"kernel: got shape \(3,\), accepted is \[\*window"),
    (lambda: jconv.conv(image, ones((3, 0, 3, 4))), r"kernel.shape\[1\]: got 0, accepted is an integer of at least 1"),
    (lambda: jconv.conv(image, kernel, ones(3)), r"bias: got shape \(3,\), accepted is \(4,\)"),
    # sizes
    (lambda: jconv.conv(ones((2, 2, 9, 3)), kernel, padding="VALID"),
     "spatial axis 0 the image spans 2 .* window spans 3, so the output would have 0 positions"),
    (lambda: jconv.conv(ones((2, 8, 1, 3)), kernel, padding="VALID", kernel_dilation=4),
     "axis 0 the image spans 8 .* window spans 9"),
    (lambda: jconv.conv(image, kernel, padding=-4), "would have -2 positions"),
    (lambda: jconv.conv(ones((2, 0, 4, 3)), kernel, padding=-1), "axis 0 the image spans 0 .* makes that -2"),
    # options
    (lambda: jconv.conv(image, kernel, padding="SANE"), "padding: got 'SANE'.*Did you mean 'SAME'"),
    (lambda: jconv.conv(image, kernel, padding=("SAME", "VALLID")), "padding: got 'VALLID'.*Did you mean 'VALID'"),
    (lambda: jconv.conv(image, kernel, padding=(1, 2, 3)), r"padding: got \(1, 2, 3\) of length 3.*2 entries"),
    (lambda: jconv.conv(image, kernel, padding=((1, 2, 3), 1)), r"padding\[0\]: got \(1, 2, 3\).*pair \(low, high\)"),
    (lambda: jconv.conv(image, kernel, padding=1.5), "padding: got 1.5, accepted is one of 'SAME', .* an integer or pairs"),
    (lambda: jconv.conv(ones((9, 3)), ones((3, 3, 4)), padding=(1, 2)), r"low and a high pad are written \[\(1, 2\)\]"),
    (lambda: jconv.conv(image, kernel, padding_mode="reflekt"), "padding_mode: got 'reflekt'.*mean 'reflect'"),
    (lambda: jconv.conv(image, kernel, padding_mode=("zeros",)), "padding_mode: got .* of length 1, .* 2 of them"),
    (lambda: jconv.conv(image, kernel, padding=9, padding_mode="reflect"),
     r"padding: got \(9, 9\) with padding_mode 'reflect' along spatial axis 0 of 8 elements; .*at most 7"),
    (lambda: jconv.conv(image, kernel, input_dilation=2, padding_mode="circular"),
     "padding_mode: got 'circular' with input_dilation 2"),
    (lambda: jconv.conv(ones((1, 0, 3)), ones((3, 3, 4)), padding=((2, 2),), padding_mode="circular"), "which is empty"),
    (lambda: jconv.conv(image, kernel, strides=(1, 2, 3)), r"strides: got \(1, 2, 3\) of length 3, .* 2 of them"),
    (lambda: jconv.conv(image, kernel, strides=0), "strides: got 0, accepted is an integer of at least 1"),
    (lambda: jconv.conv(image, kernel, kernel_dilation=(1, -1)), r"kernel_dilation\[1\]: got -1"),
    (lambda: jconv.conv(image, kernel, input_dilation="2"), "input_dilation"),
    (lambda: jconv.conv(image, kernel, algorithm="einsam"), "algorithm: got 'einsam'.*Did you mean 'einsum'"),
    (lambda: jconv.conv(image, kernel, algorithm=Algorithms(kernel_grad="xls")), "algorithm: got 'xls'.*mean 'xla'"),
    # transposed, local, gradients
    (lambda: jconv.conv_transpose(image, kernel), "x and kernel: got x of shape .* accepted are x"),
    (lambda: jconv.conv_transpose(ones((4, 4)), ones((3, 2, 4)), output_shape=(9,), strides=2),
     "output_shape: got 9 along spatial axis 0.*images of 7 to 8"),
    (lambda: jconv.conv_transpose(ones((4, 4)), ones((3, 2, 4)), output_padding=2, strides=2, padding=1),
     "output_padding: got 2 along spatial axis 0.*images of 7 to 8"),
    (lambda: jconv.conv_transpose(ones((4, 4)), ones((3, 2, 4)), output_padding=0, output_shape=(7,), strides=2),
     "accepted is one of the two"),
    (lambda: jconv.conv_transpose(ones((4, 4)), ones((3, 2, 4)), feature_group_count=3), "accepted is a divisor of the 4"),
    (lambda: jconv.conv_transpose(ones((4, 4)), ones((4,))), r"kernel: got shape \(4,\)"),
    (lambda: jconv.conv_transpose(ones((1, 4)), ones((3, 2, 4)), padding=2), "asks for -1 elements"),
    (lambda: jconv.conv_local(ones((5, 1)), ones((4, 3, 1, 1)), padding="VALID"),
     r"kernel: got shape \(4, 3, 1, 1\), accepted is \(3, 3, 1, 1\)"),
    (lambda: jconv.conv_local(ones((5, 1)), ones((3, 1, 1))), r"kernel: got shape \(3, 1, 1\)"),
    (lambda: jconv.conv_local(ones((5, 1)), ones((5, 3, 1, 2)), ones(2)), r"bias: got shape \(2,\), accepted is \(5, 2\)"),
    (lambda: jconv.conv_input_grad(ones((2, 8, 9, 5)), kernel, image.shape),
     r"g: got shape \(2, 8, 9, 5\), accepted is \(2, 8, 9, 4\)"),
    (lambda: jconv.conv_kernel_grad(image, ones((2, 7, 9, 4)), (3, 3)), r"g: got shape .* accepted is \(2, 8, 9, 4\)"),
    (lambda: jconv.conv_kernel_grad(image, ones((2, 8)), (3, 3)), r"window_shape: got \(3, 3\)"),
    (lambda: jconv.conv_kernel_grad(image, ones((2, 8, 9, 4)), (3, 3), feature_group_count=2), "divisor of the 3"),
    (lambda: jconv.conv_bias_grad(1.0), r"g: got shape \(\)"),
    # selection, pools, initializers
    (lambda: jconv.select_algorithm((8, 8, 1), (3, 3, 1, 1), role="backward"), "role: got 'backward', accepted: 'forward'"),
    (lambda: jconv.select_algorithm((8, 8, 1), (3, 3, 1, 1), platform="gpv"), "platform: got 'gpv'"),
    (lambda: jconv.max_pool(image, (9, 9)), r"window_shape: got 9 along spatial axis 0, where x of shape .* has 8"),
    (lambda: jconv.max_pool(image, (2, 2), padding=2), r"padding: got \(2, 2\).*pads of 0 to 1"),
    (lambda: jconv.max_pool(image, (2, 2), padding=-1), r"padding: got \(-1, -1\)"),
    (lambda: jconv.max_pool(ones((2,)), (2, 2)), r"x: got shape \(2,\)"),
    (lambda: jconv.avg_pool(image, (2, 2), strides=(1, 1, 1)), "strides: got .* of length 3"),
    (lambda: jconv.global_avg_pool(image, rank=4), "rank: got 4"),
    (lambda: initializers.VarianceScaling(1.0, "fan_inn", "uniform"), "mode: got 'fan_inn'.*mean 'fan_in'"),
    (lambda: initializers.VarianceScaling(1.0, "fan_in", "unifrm"), "distribution: got 'unifrm'.*mean 'uniform'"),
    (lambda: initializers.fans((3,)), r"shape: got \(3,\)"),
    (lambda: initializers.fans((3, 1, 4), feature_group_count=3), "feature_group_count: got 3"),
    # layers
    (lambda: layers.Conv(4, 3).apply({}, {}, image), r"params: got \[\], accepted by Conv is a dict with 'kernel'"),
    (lambda: layers.Conv(4, 3).apply({"kernel": kernel}, {}, image), r"params: got \['kernel'\].*'bias'"),
    (lambda: layers.Conv(4, 3).apply((kernel,), {}, image), "params: got tuple"),
    (lambda: layers.Conv(4, (3, 3, 3)).init(jax.random.key(0), (1, 8, 8, 3)), r"kernel_size: got \(3, 3, 3\) of length 3"),
    (lambda: layers.Conv(4, 3).init(jax.random.key(0), (8,)), r"input_shape: got \(8,\)"),
    (lambda: layers.Conv(4, 3, feature_group_count=2).init(jax.random.key(0), (1, 8, 3)), "got 2 for an input of shape"),
    (lambda: layers.ConvTranspose(4, 3, feature_group_count=3), "feature_group_count: got 3"),
    (lambda: layers.GroupNorm(2).init(jax.random.key(0), (1, 8, 3)), "num_groups: got 2, .*divisor of the 3 channels"),
    (lambda: layers.BatchNorm().apply({}, {}, image), "state: got .*accepted by BatchNorm is a dict with 'mean'"),
    (lambda: layers.Dropout(1.0), "rate: got 1.0"),
    (lambda: layers.Dropout(0.5).apply({}, {}, image, train=True), "key: got None"),
    (lambda: layers.Activation("rulu"), "function: got 'rulu'.*mean 'relu'"),
    (lambda: layers.Sequential(layers.Flatten(name="a"), layers.Flatten(name="a")), "name: got 'a' twice"),
    (lambda: layers.Parallel(layers.Flatten(), combine="summ"), "combine: got 'summ'.*mean 'sum'"),
    (lambda: layers.Parallel(), "branches: got none"),
    (lambda: layers.Parallel(layers.Conv(4, 3), layers.Conv(5, 3), combine="sum").output_shape((1, 8, 3)), "that agree"),
    (lambda: layers.Residual(layers.Conv(4, 3, strides=2)).init(jax.random.key(0), (1, 8, 4)),
     r"Residual: got a body that gives \(1, 4, 4\) and a shortcut that gives \(1, 8, 4\)"),
    (lambda: jconv.summary(layers.Flatten(), ()), r"input_shape: got \(\)"),
    # values that are not what they should be: traced, without axes, or a number where a sequence is meant
    (lambda: jax.jit(lambda s: jconv.conv(image, kernel, strides=s))(2), "strides: got .*Trace.*accepted is an integer"),
    (lambda: jax.jit(lambda s: jconv.conv(image, kernel, strides=(s, 1)))(2), r"strides\[0\]: got .*Trace"),
    (lambda: jconv.conv(image, kernel, padding=None), "padding: got None, accepted is one of 'SAME'"),
    (lambda: jconv.conv(image, kernel, padding_mode=None), "padding_mode: got None, accepted is a sequence of names"),
    (lambda: jconv.conv(image, kernel, feature_group_count=[1]), r"feature_group_count: got \[1\]"),
    (lambda: jconv.conv_transpose(image, ones((3, 3, 4, 3)), feature_group_count=[1]), r"feature_group_count: got \[1\]"),
    (lambda: jconv.max_pool(image, 2), "window_shape: got 2, accepted is a sequence of integers, one for each spatial"),
    (lambda: jconv.conv_kernel_grad(image, image, 3), "window_shape: got 3, accepted is a sequence"),
    (lambda: jconv.conv_input_grad(image, kernel, 5), "input_shape: got 5, accepted is a sequence"),
    (lambda: jconv.conv_transpose(ones((4, 4)), ones((3, 2, 4)), output_shape=7), "output_shape: got 7, accepted is a"),
    (lambda: jconv.ConvSpec(None, (3, 3, 1, 1)), "x: got None, accepted is a sequence"),
    (lambda: jconv.conv(image, kernel, precision="hihg"), "precision: got 'hihg', accepted are None, 'default', 'high'"),
    (lambda: jconv.conv(image, kernel, precision={}), "precision: got {}"),
    (lambda: jconv.conv_local(ones((5, 1)), ones((3, 3, 1, 1)), padding="VALID", precision=3), "precision: got 3"),
    (lambda: jconv.conv(image, kernel, algorithm=Algorithms(forward=[])), r"algorithm: got \[\]"),
    (lambda: jconv.conv_local(ones((1, *(1,) * 9, 1)), ones((1,) * 20)), "with 9 spatial axes, accepted are at most 8"),
    (lambda: jconv.global_max_pool(ones((2, 0, 3))), "accepted is at least one position"),
    # layouts of the transposed convolution and of cotangents
    (lambda: jconv.conv_transpose(ones((2, 3, 32, 32)), ones((3, 3, 8, 3))), r"NCHW: pass jax.numpy.moveaxis\(x, -3, -1\)"),
    (lambda: jconv.conv_transpose(ones((2, 9, 9, 3)), ones((3, 8, 5, 5))), r"like IOHW: pass kernel.transpose\(2, 3, 1, 0\)"),
    (lambda: jconv.conv_input_grad(ones((2, 4, 8, 9)), kernel, image.shape), r"channels-first: pass jax.numpy.moveaxis\(g, 1"),
    # parameters of another network
    (lambda: layers.Conv(4, 3).apply({"kernel": ones((5, 5, 3, 4)), "bias": ones(4)}, {}, image), "params: got 'kernel' with"),
    (lambda: layers.Conv(4, 3).apply({"kernel": ones((3, 3, 4)), "bias": ones(4)}, {}, image),
     "with 4 axes, accepted by this Conv, whose kernel has a window of 1, is .batch, length, channels. with 3"),
    (lambda: layers.Conv(5, 3).apply({"kernel": kernel, "bias": ones(4)}, {}, image), "params: got 'kernel' with"),
    (lambda: layers.ConvTranspose(4, 3).apply({"kernel": kernel, "bias": ones(4)}, {}, image), "params: got 'kernel' with"),
    (lambda: layers.Dense(4).apply({"kernel": ones((2, 4)), "bias": ones(4)}, {}, image), "params: got 'kernel' with"),
    (lambda: layers.LayerNorm().apply({"scale": ones(1), "bias": ones(3)}, {}, image), r"'scale' of shape \(1,\), accepted"),
    (lambda: layers.BatchNorm().apply({}, {"mean": ones(4), "var": ones(4)}, image), r"state: got 'mean' of shape \(4,\)"),
    (lambda: layers.BatchNorm().apply({}, None, image), "state: got NoneType"),
    (lambda: layers.BatchNorm().init(jax.random.key(0), ()), r"input_shape: got \(\)"),
    (lambda: layers.BatchNorm().apply({}, {"mean": ones(3), "var": ones(3)}, ones((0, 3)), train=True), "batch with elements"),
    (lambda: layers.Sequential(layers.Dense(2)).apply({"Conv_0": {}}, {}, image), r"unexpected \['Conv_0'\].*\['Dense_0'\]"),
    (lambda: layers.Sequential(layers.Dense(2)).apply(None, {}, image), "params: got NoneType"),
    (lambda: layers.Conv(4, 3, padding_mode="refect"), "padding_mode: got 'refect'.*mean 'reflect'"),
    (lambda: layers.Conv(4, 3, algorithm="foo"), "algorithm: got 'foo'"),
    (lambda: layers.Conv(4, 3, feature_group_count=0), "feature_group_count: got 0"),
    (lambda: layers.GroupNorm(2.0), "num_groups: got 2.0"),
    (lambda: layers.Sequential(layers.Dense(2)).init(jax.random.key(0), 5), "input_shape: got 5"),
    (lambda: layers.Residual(layers.Conv(2, 3)).apply(
        {"body": {"Conv_0": {"kernel": ones((3, 3, 3, 2)), "bias": ones(2)}}}, {}, image), "Residual: got outputs of shapes"),
    (lambda: layers.Flatten().output_shape(()), r"input_shape: got \(\)"),
])  # fmt: skip
def test_value_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(("call", "text"), [
    (lambda: jconv.conv(ones((5, 1), jnp.int32), ones((3, 1, 1))),
     "x: got dtype int32 beside .*computing in float32 would round x silently"),
    (lambda: jconv.conv(ones((5, 1), jnp.int16), ones((3, 1, 1), jnp.bfloat16)), "would round x silently"),
    (lambda: jconv.conv(ones((5, 1), jnp.bfloat16), ones((3, 1, 1), jnp.bfloat16), ones(1)),
     "bias: got dtype float32 for a result of bfloat16"),
    (lambda: jconv.conv(ones((5, 1), bool), ones((3, 1, 1))), "x: got dtype bool, accepted are float16"),
    (lambda: jconv.conv(ones((5, 1)), ones((3, 1, 1)), preferred_element_type=jnp.bfloat16),
     "preferred_element_type: got bfloat16 for operands of float32; accepted is a dtype of the same kind"),
    (lambda: jconv.conv(ones((5, 1)), ones((3, 1, 1)), preferred_element_type=jnp.int32), "of the same kind"),
    (lambda: jconv.conv(ones((5, 1)), ones((3, 1, 1)), algorithm=3), "algorithm: got 3, accepted is a name"),
    (lambda: jconv.avg_pool(ones((4, 1), jnp.int32), (2,)), "x: got dtype int32"),
    (lambda: jconv.global_avg_pool(ones((1, 4, 1), jnp.int32)), "x: got dtype int32"),
    (lambda: jconv.max_pool(ones((4, 1), jnp.complex64), (2,)), "x: got dtype complex64"),
    (lambda: jconv.conv(ones((5, 1), jnp.int8), ones((3, 1, 1), jnp.int8), jnp.array([0.5])), "bias: got dtype float32"),
    (lambda: jconv.conv(ones((5, 1)), ones((3, 1, 1)), jnp.array([1j])), "bias: got dtype complex64"),
    (lambda: jconv.conv(ones((5, 1)), ones((3, 1, 1)), jnp.array([True])), "bias: got dtype bool"),
    (lambda: jconv.conv(ones((5, 1), jnp.int8), ones((3, 1, 1), jnp.int8), preferred_element_type=jnp.uint32), "of the same"),
    (lambda: jconv.conv(ones((5, 1), jnp.bfloat16), ones((3, 1, 1), jnp.bfloat16), preferred_element_type=jnp.float16),
     "accepted is a dtype of the same kind"),
    (lambda: jconv.conv_bias_grad(ones((5, 1), bool)), "g: got dtype bool"),
    (lambda: jconv.select_algorithm((8, 1), (3, 1, 1), dtype=bool), "dtype: got dtype bool"),
    (lambda: layers.Conv(4, 3, dtype=jnp.int8), "dtype: got .*int8"),
    (lambda: layers.Residual(shortcut=jnp.tanh), "accepted by Residual are Layers"),
    (lambda: layers.Parallel(layers.Flatten(), combine=None), "combine: got None"),
    (lambda: layers.Activation(None), "function: got None"),
    (lambda: layers.Sequential(jnp.tanh), r"layers\[0\]: got .*accepted by Sequential are Layers"),
])  # fmt: skip
def test_type_errors(call, text):
    with pytest.raises(TypeError, match=text):
        call()


def test_undeclared_calls_are_refused():
    x, k = ones((1, *(2,) * 9, 1)), ones((*(1,) * 9, 1, 1))
    with pytest.raises(ValueError, match="'einsum' does not cover forward of .*8 spatial axes.*Accepted: \\['xla', "):
        jconv.conv(x, k, algorithm="einsum")
    assert jconv.select_algorithm(x.shape, k.shape, platform="cpu").name == "xla"
    with pytest.raises(ValueError, match="does not cover kernel_grad"):
        jax.grad(lambda k: jnp.sum(jconv.conv(x, k, algorithm=Algorithms("xla", "xla", "einsum"))))(k)


def test_errors_come_at_once_inside_jit_too():
    with pytest.raises(ValueError, match="strides: got 0"):
        jax.jit(lambda x, k: jconv.conv(x, k, strides=0))(image, kernel)


FUNCTIONS = [jconv.conv, jconv.conv_transpose, jconv.conv_local, jconv.conv_input_grad, jconv.conv_kernel_grad,
             jconv.conv_bias_grad, jconv.select_algorithm, jconv.max_pool, jconv.avg_pool, jconv.global_avg_pool,
             jconv.global_max_pool, jconv.convolve, jconv.correlate, jconv.ConvSpec]  # fmt: skip


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_a_name_of_another_library_is_answered_with_ours(fn):
    own = list(inspect.signature(fn).parameters)
    for name, others in CALLED.items():
        for other in others.split() if name in own else ():
            if other not in own:
                with pytest.raises(TypeError, match=rf"{other}: no argument of \w+; it is called '\w+' here"):
                    fn(**{other: 1})
    with pytest.raises(
        TypeError, match=r"data_format: no argument of \w+; images are always \[\*batch, \*spatial, channels"
    ):
        fn(data_format="NCHW")
    with pytest.raises(TypeError, match=f"{own[0]}_: no argument of .*accepted: '{own[0]}'"):
        fn(**{f"{own[0]}_": 1})
    with pytest.raises(TypeError, match=rf"{fn.__name__}: got 20 arguments without a name, accepted are {own[0]}"):
        fn(*range(20))


@pytest.mark.parametrize(("call", "text"), [
    (lambda: jconv.conv(image, kernel, stride=2), "stride: no argument of conv; it is called 'strides' here"),
    (lambda: jconv.conv(image, kernel, groups=3), "it is called 'feature_group_count' here"),
    (lambda: jconv.conv_transpose(image, kernel, dilation=2), "it is called 'kernel_dilation' here"),
    (lambda: jconv.conv(image, kernel, lhs_dilation=2), "it is called 'input_dilation' here"),
    (lambda: jconv.avg_pool(image, kernel_size=2), "it is called 'window_shape' here"),
    (lambda: jconv.conv(image, kernel, None, 2), "got 4 arguments without a name, accepted are x, kernel, bias; strides, "),
    (lambda: jconv.conv(image, kernel, stirdes=2), "stirdes: no argument of conv; accepted: .* Did you mean 'strides'"),
])  # fmt: skip
def test_the_argument_that_is_meant(call, text):
    with pytest.raises(TypeError, match=text):
        call()


def test_signatures_stay_visible():
    assert list(inspect.signature(jconv.conv).parameters)[:4] == ["x", "kernel", "bias", "strides"]
    assert (jconv.conv.__name__, jconv.conv.__module__) == ("conv", "jconv._conv")
    assert pickle.loads(pickle.dumps(jconv.conv)) is jconv.conv


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])
@pytest.mark.parametrize(
    ("space", "window"), [((8, 9), (3, 3)), ((8, 9), (5, 3)), ((9,), (3,)), ((4, 6, 5), (3, 3, 3))]
)
@pytest.mark.parametrize(("channels", "features"), [(3, 8), (3, 3), (5, 3), (3, 5)])
def test_following_the_hint_about_layouts_gives_the_right_result(space, window, channels, features, transposed):
    """Channels-first images and kernels, as in PyTorch: the error names every move that is needed."""
    rank = len(space)
    fn = jconv.conv_transpose if transposed else jconv.conv
    x = jax.random.normal(jax.random.key(0), (2, channels, *space))
    shape = (channels, features, *window) if transposed else (features, channels, *window)
    kernel = jax.random.normal(jax.random.key(1), shape)
    to_last, to_hwio = lambda x: jnp.moveaxis(x, 1, -1), lambda k: k.transpose(*range(2, rank + 2), 1, 0)
    want = fn(to_last(x), to_hwio(kernel))
    with pytest.raises(ValueError, match="x and kernel") as caught:
        fn(x, kernel)
    hint = str(caught.value)
    moves = re.findall(r"jax\.numpy\.moveaxis\(x, -?\d, -1\)|kernel\.transpose\([\d, ]+\)", hint)
    assert len(moves) == 2, hint
    moved = {move.partition("x" if "moveaxis" in move else "kernel.")[0]: eval(move, {"jax": jax, "x": x, "kernel": kernel})
             for move in moves}  # fmt: skip
    np.testing.assert_array_equal(fn(*(moved[key] for key in sorted(moved, reverse=True))), want)


@pytest.mark.parametrize(("call", "text"), [
    (lambda: jconv.conv(image, kernel, "SAME"), "bias: got 'SAME', accepted is an array of numbers. Options are given by name"),
    (lambda: jconv.conv(None, kernel), "x: got None, accepted is an array of numbers"),
    (lambda: jconv.conv(image, None), "kernel: got None, accepted is an array"),
    (lambda: jconv.conv_transpose(image, ones((3, 3, 4, 3)), object), "bias: got <class .object.>, accepted is an array"),
    (lambda: jconv.conv_local(None, kernel), "x: got None"),
    (lambda: jconv.conv_input_grad(None, kernel, image.shape), "g: got None"),
    (lambda: jconv.conv_kernel_grad(image, "SAME", (3, 3)), "g: got 'SAME'"),
    (lambda: jconv.conv_bias_grad(object), "g: got <class 'object'>"),
    (lambda: jconv.max_pool(None, (2,)), "x: got None"),
    (lambda: jconv.convolve([1.0, [2.0]], [1.0]), r"in1: got \[1.0, \[2.0\]\], accepted is an array"),
    (lambda: jconv.correlate([1.0], None), "in2: got None"),
])  # fmt: skip
def test_what_is_no_array_is_named(call, text):
    with pytest.raises(TypeError, match=text):
        call()
