import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec

from blt_jax.models.layers import convolution as module
from blt_jax.models.layers.convolution import convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")

# image [N,H,W,C], kernel [h,w,I,O], strides, padding, dilation, groups
CASES = {
    "3x3 same": ((2, 8, 8, 8), (3, 3, 8, 5), (1, 1), "SAME", (1, 1), 1),
    "3x3 stride 2": ((2, 9, 8, 8), (3, 3, 8, 5), (2, 2), 1, (1, 1), 1),
    "3x3 stride 2 same": ((2, 8, 7, 8), (3, 3, 8, 5), (2, 2), "SAME", (1, 1), 1),
    "3x3 stride 3": ((2, 11, 10, 8), (3, 3, 8, 5), (3, 3), 1, (1, 1), 1),
    "strides differ": ((2, 9, 8, 8), (3, 3, 8, 5), (1, 2), 1, (1, 1), 1),
    "dilation": ((2, 9, 9, 8), (3, 3, 8, 5), (1, 1), "SAME", (2, 2), 1),
    "dilation stride": ((2, 9, 9, 8), (3, 3, 8, 5), (2, 2), "SAME", (2, 1), 1),
    "uneven padding": ((2, 6, 6, 8), (3, 3, 8, 5), (1, 1), ((2, 0), (1, 3)), (1, 1), 1),
    "negative padding": (
        (2, 9, 9, 8),
        (3, 3, 8, 5),
        (2, 2),
        ((-1, 2), (1, -1)),
        (1, 1),
        1,
    ),
    "unread border": ((2, 8, 8, 8), (3, 3, 8, 5), (3, 3), "VALID", (1, 1), 1),
    "2x2 stride 2": ((2, 8, 8, 8), (2, 2, 8, 5), (2, 2), "VALID", (1, 1), 1),
    "4x4 stride 2": ((2, 9, 9, 8), (4, 4, 8, 5), (2, 2), "SAME", (1, 1), 1),
    "1x3": ((2, 8, 8, 8), (1, 3, 8, 5), (2, 1), "SAME", (1, 1), 1),
    "1x1": ((2, 5, 6, 8), (1, 1, 8, 5), (1, 1), "VALID", (1, 1), 1),
    "1x1 stride 2": ((2, 7, 8, 8), (1, 1, 8, 5), (2, 2), "VALID", (1, 1), 1),
    "7x7 stride 2": ((2, 16, 16, 3), (7, 7, 3, 8), (2, 2), 3, (1, 1), 1),
    "7x7 on 4x4": ((2, 4, 4, 3), (7, 7, 3, 8), (2, 2), 3, (1, 1), 1),
    "3x3 on 1x1": ((3, 1, 1, 8), (3, 3, 8, 5), (1, 1), 1, (1, 1), 1),
    "3x3 on 2x2": ((3, 2, 2, 8), (3, 3, 8, 5), (1, 1), 1, (1, 1), 1),
    "3x3 on 3x3": ((3, 3, 3, 8), (3, 3, 8, 5), (1, 1), 1, (1, 1), 1),
    "4x4 to 2x2": ((3, 4, 4, 8), (3, 3, 8, 5), (2, 2), 1, (1, 1), 1),
    "few channels": ((2, 6, 6, 3), (3, 3, 3, 5), (1, 1), 1, (1, 1), 1),
    "groups": ((2, 6, 6, 16), (3, 3, 8, 6), (1, 1), 1, (1, 1), 2),
    "groups stride 2": ((2, 7, 7, 16), (3, 3, 8, 6), (2, 2), 1, (1, 1), 2),
    "depthwise": ((2, 6, 6, 8), (3, 3, 1, 8), (1, 1), "SAME", (1, 1), 8),
    "depthwise stride 2": ((2, 7, 6, 8), (5, 5, 1, 8), (2, 2), 2, (1, 1), 8),
    "depthwise dilated": ((2, 7, 9, 8), (3, 2, 1, 8), (2, 3), 1, (2, 1), 8),
    "depthwise 7x7 on 3x3": ((2, 3, 3, 8), (7, 7, 1, 8), (1, 1), 3, (1, 1), 8),
    "two of each channel": ((2, 6, 6, 8), (3, 3, 1, 16), (1, 1), 1, (1, 1), 8),
    "empty batch": ((0, 8, 8, 8), (3, 3, 8, 5), (1, 1), 1, (1, 1), 1),
}


def pair(name, dtype=jnp.float32):
    """The arrays of a case and the two functions to compare."""
    image_shape, kernel_shape, strides, padding, dilation, groups = CASES[name]
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    rng = np.random.default_rng(sum(map(ord, name)))
    image = jnp.asarray(rng.standard_normal(image_shape), dtype)
    kernel = jnp.asarray(rng.standard_normal(kernel_shape), dtype)
    arguments = {
        "window_strides": strides,
        "padding": padding,
        "rhs_dilation": dilation,
        "dimension_numbers": LAYOUT,
        "feature_group_count": groups,
    }
    ours = functools.partial(convolution, **arguments)
    stock = functools.partial(lax.conv_general_dilated, **arguments)
    cotangent = jnp.asarray(
        rng.standard_normal(jax.eval_shape(stock, image, kernel).shape), dtype
    )
    return image, kernel, cotangent, ours, stock


def value_and_gradients(function, image, kernel, cotangent):
    def run(image, kernel, cotangent):
        value, pull = jax.vjp(function, image, kernel)
        return (value, *pull(cotangent))

    return jax.jit(run)(image, kernel, cotangent)


def assert_close(ours, stock, tolerance):
    for a, b in zip(
        jax.tree.leaves(ours), jax.tree.leaves(stock), strict=True
    ):  # relative to the largest entry: small ones are differences of large ones
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(1.0, np.abs(b).max(initial=0.0))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_equal_lax_in_float64(name):
    with jax.enable_x64(True):
        *arrays, ours, stock = pair(name, jnp.float64)
        assert_close(
            value_and_gradients(ours, *arrays),
            value_and_gradients(stock, *arrays),
            1e-13,
        )


@pytest.mark.parametrize("name", ["3x3 same", "3x3 stride 2", "3x3 on 2x2"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2), (jnp.float16, 3e-3)],
)
def test_value_and_gradients_equal_lax_and_keep_the_dtype(name, dtype, tolerance):
    *arrays, ours, stock = pair(name, dtype)
    results = value_and_gradients(ours, *arrays)
    assert {r.dtype for r in results} == {jnp.dtype(dtype)}
    assert_close(results, value_and_gradients(stock, *arrays), tolerance)


def test_hand_worked_tiny_map():
    image = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)

    def total(image, kernel):
        return convolution(
            image, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT
        ).sum()

    value = convolution(image, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)
    # Top left: 4*1 + 5*2 + 7*3 + 8*4; the kernel slides one to the left and up.
    np.testing.assert_allclose(value[0, :, :, 0], [[67, 57], [37, 27]])
    d_image, d_kernel = jax.grad(total, argnums=(0, 1))(image, kernel)
    # Pixel (0,0) is under taps 4, 3, 1, 0; the middle tap sees all pixels.
    np.testing.assert_allclose(d_image[0, :, :, 0], [[8, 12], [20, 24]])
    np.testing.assert_allclose(d_kernel[:, :, 0, 0], [[1, 3, 2], [4, 10, 6], [3, 7, 4]])


def test_preferred_element_type_is_passed_on():
    image, kernel, _, ours, _ = pair("3x3 same", jnp.bfloat16)
    assert ours(image, kernel, preferred_element_type=jnp.float32).dtype == jnp.float32
    assert ours(image, kernel, preferred_element_type=jnp.bfloat16).dtype == image.dtype


@pytest.mark.parametrize("precision", ["highest", ["high", "high"]])
def test_precision(precision):
    image, kernel, cotangent, ours, stock = pair("3x3 stride 2")
    ours = functools.partial(ours, precision=precision)
    if isinstance(precision, list):
        precision = tuple(precision)
    stock = functools.partial(stock, precision=precision)
    arrays = (image, kernel, cotangent)
    assert_close(
        value_and_gradients(ours, *arrays), value_and_gradients(stock, *arrays), 2e-6
    )


def test_reverse_of_reverse():
    with jax.enable_x64(True):
        for name in ("3x3 same", "3x3 stride 2", "3x3 on 2x2"):
            image, kernel, _, ours, stock = pair(name, jnp.float64)

            def penalty(image, kernel, function):
                def cube(image):
                    return (function(image, kernel) ** 3).sum()

                return (jax.grad(cube)(image) ** 2).sum()

            gradients = [
                jax.jit(
                    jax.grad(functools.partial(penalty, function=f), argnums=(0, 1))
                )(image, kernel)
                for f in (ours, stock)
            ]
            assert_close(*gradients, 1e-12)


def test_forward_mode_is_refused():
    image, kernel, _, ours, _ = pair("3x3 same")
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: ours(x, kernel), (image,), (image,))


@pytest.mark.parametrize("name", ["3x3 same", "3x3 stride 2", "3x3 on 2x2"])
@pytest.mark.parametrize("axes", [(0, None), (0, 0)])
def test_vmap(name, axes):
    image, kernel, cotangent, ours, stock = pair(name)
    image, kernel = (
        jnp.stack([a, 2 * a, a - 1]) if axis == 0 else a
        for a, axis in zip((image, kernel), axes, strict=True)
    )
    results = [
        jax.vmap(
            lambda x, k, f=f: value_and_gradients(f, x, k, cotangent), in_axes=axes
        )(image, kernel)
        for f in (ours, stock)
    ]
    assert_close(*results, 2e-6)


def test_vmap_over_single_images_compiles_to_one_batch():
    """The ascent takes single images: their batch must not become groups or loops."""
    images, kernel = jnp.zeros((6, 1, 8, 8, 8)), jnp.zeros((3, 3, 8, 8))

    def gradient(image, kernel):
        return jax.grad(lambda x: (conv_same(x, kernel) ** 2).sum())(image)

    text = compiled(jax.vmap(gradient, in_axes=(0, None)), images, kernel)
    assert re.findall(r"(\S+)\{\S* convolution\(", text) == ["f32[6,8,8,8]"] * 2
    assert "feature_group_count" not in text and " while(" not in text


def conv_same(image, kernel, stride=1):
    low = kernel.shape[0] // 2
    return convolution(
        image,
        kernel,
        (stride, stride),
        ((low, low), (low, low)),
        dimension_numbers=LAYOUT,
    )


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


KERNELS = ((7, 3, 16), (3, 16, 16), (3, 16, 32), (3, 32, 32))
STRIDES = (2, 1, 2, 1)


def small_network(kernels, image):
    for kernel, stride in zip(kernels, STRIDES, strict=True):
        image = jax.nn.relu(conv_same(image, kernel, stride))
    return image.mean((1, 2))[:, 0].sum()


def small_kernels():
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.standard_normal((k, k, i, o)) / (k * i**0.5), jnp.float32)
        for k, i, o in KERNELS
    ]


@pytest.mark.parametrize("loop", ["none", "while", "scan", "cond"])
def test_no_reversed_or_swapped_convolution(loop):
    """In loops XLA:CPU reverses the kernel of stock image gradients: far slower.

    8x8 images end in 2x2 maps, where it would swap kernel and image even outside.
    """
    images = jnp.zeros((4, 8, 8, 3))

    def update(kernels, image):
        gradient = jax.grad(small_network, argnums=1)(kernels, image)
        return image + 0.1 * gradient

    def ascend(kernels, image):
        if loop == "while":
            return lax.while_loop(
                lambda carry: carry[0] < 3,
                lambda carry: (carry[0] + 1, update(kernels, carry[1])),
                (0, image),
            )[1]
        if loop == "scan":
            return lax.scan(lambda x, _: (update(kernels, x), None), image, length=3)[0]
        if loop == "cond":
            return lax.cond(image.sum() > 0, update, lambda _, x: x, kernels, image)
        return update(kernels, image)

    text = compiled(ascend, small_kernels(), images)
    assert " convolution(" in text
    assert "rhs_reversal" not in text
    # Every convolution is images times kernel, in the layout of the fast path.
    assert set(re.findall(r"dim_labels=(\w+->\w+)", text)) == {"b01f_01io->b01f"}


def test_image_gradient_computes_no_kernel_gradient():
    image, kernel = jnp.zeros((4, 8, 8, 16)), jnp.zeros((3, 3, 16, 16))

    def work(argnums):
        gradient = jax.grad(lambda x, k: (conv_same(x, k) ** 2).sum(), argnums=argnums)
        return len(
            re.findall(r" (?:convolution|dot)\(", compiled(gradient, image, kernel))
        )

    assert work((0, 1)) == 3
    assert work(0) == 2
    assert work(1) == 2


def test_training_gradient_holds_no_loop():
    text = compiled(jax.grad(small_network), small_kernels(), jnp.zeros((4, 8, 8, 3)))
    assert " while(" not in text


def test_remat_and_gradient_of_jit():
    *arrays, ours, stock = pair("3x3 stride 2")
    expected = value_and_gradients(stock, *arrays)
    for wrapped in (jax.checkpoint(ours), jax.jit(ours)):
        assert_close(value_and_gradients(wrapped, *arrays), expected, 2e-6)


def test_shard_map_and_sharded_batches():
    devices = jax.devices()[:2]
    if len(devices) < 2:
        pytest.skip("needs 2 devices: jax_num_cpu_devices is set in conftest")
    mesh = Mesh(np.array(devices), ("data",))
    kernels = small_kernels()
    images = jnp.asarray(np.random.default_rng(1).standard_normal((4, 8, 8, 3)), float)
    expected = jax.jit(jax.grad(small_network, argnums=(0, 1)))(kernels, images)

    def local(kernels, images):
        d_kernels, d_images = jax.grad(small_network, argnums=(0, 1))(kernels, images)
        return d_kernels, d_images

    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), spec),
        out_specs=(PartitionSpec(), spec),
    )
    assert_close(jax.jit(mapped)(kernels, images), expected, 1e-5)

    sharded = jax.device_put(images, jax.sharding.NamedSharding(mesh, spec))
    function = jax.jit(jax.grad(small_network, argnums=(0, 1)))
    assert_close(function(kernels, sharded), expected, 1e-5)
    text = function.lower(kernels, sharded).compile().as_text()
    # Images stay where they are; only gradients of kernels are summed.
    assert "all-gather" not in text and "collective-permute" not in text


def test_explicit_sharding_is_left_to_lax():
    devices = jax.devices()[:2]
    if len(devices) < 2:
        pytest.skip("needs 2 devices: jax_num_cpu_devices is set in conftest")
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Explicit,))
    image, kernel, _, ours, stock = pair("3x3 same")
    with jax.set_mesh(mesh):
        sharded = jax.device_put(
            image, jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
        )
        result = jax.jit(ours)(sharded, kernel)
        assert jax.typeof(result).sharding.spec[0] == "data"
    assert_close(np.asarray(result), np.asarray(stock(image, kernel)), 2e-6)


def test_other_devices_get_the_lax_convolution(monkeypatch):
    image, kernel, _, ours, stock = pair("3x3 on 2x2")
    assert "custom_vjp" in str(jax.make_jaxpr(ours)(image, kernel))
    monkeypatch.setattr(module, "_on_cpu", lambda: False)
    # New functions, as jaxprs are cached by function.
    text, expected = (
        str(jax.make_jaxpr(lambda x, k, f=f: f(x, k))(image, kernel))
        for f in (ours, stock)
    )
    assert text == expected


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("device", [None, "cpu", "object"])
def test_default_device_is_recognised(monkeypatch, backend, device):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with jax.default_device(jax.devices("cpu")[0] if device == "object" else device):
        assert module._on_cpu() == (backend == "cpu" or device is not None)


@pytest.mark.parametrize(
    ("arguments", "image_shape", "kernel_shape"),
    [
        ({}, (2, 8, 6, 6), (5, 8, 3, 3)),
        ({"dimension_numbers": ("NHWC", "OIHW", "NHWC")}, (2, 6, 6, 8), (5, 8, 3, 3)),
        (
            {"dimension_numbers": LAYOUT, "lhs_dilation": (2, 2)},
            (2, 6, 6, 8),
            (3, 3, 8, 5),
        ),
        (
            {"dimension_numbers": LAYOUT, "batch_group_count": 2},
            (2, 6, 6, 8),
            (3, 3, 8, 6),
        ),
    ],
)
def test_everything_else_is_left_to_lax(arguments, image_shape, kernel_shape):
    image, kernel = jnp.ones(image_shape), jnp.ones(kernel_shape)
    padding = ((1, 1), (1, 1))
    ours = functools.partial(
        convolution, window_strides=(1, 1), padding=padding, **arguments
    )
    stock = functools.partial(
        lax.conv_general_dilated, window_strides=(1, 1), padding=padding, **arguments
    )
    assert str(jax.make_jaxpr(ours)(image, kernel)) == str(
        jax.make_jaxpr(stock)(image, kernel)
    )


def test_one_and_three_dimensional_layers_still_work():
    for rank in (1, 3):
        layers = [
            nnx.Conv(4, 6, (3,) * rank, rngs=nnx.Rngs(0), **extra)
            for extra in ({"conv_general_dilated": convolution}, {})
        ]
        image = jnp.ones((2, *(5,) * rank, 4))
        assert_close(layers[0](image), layers[1](image), 0)


def test_wrong_channels_are_refused_as_by_lax():
    with pytest.raises((TypeError, ValueError), match="conv_general_dilated"):
        conv_same(jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 8, 5)))


@pytest.mark.parametrize(("padding", "strides"), [("SAME", 1), (1, 2), ("CIRCULAR", 1)])
def test_in_an_nnx_layer(padding, strides):
    layers = [
        nnx.Conv(8, 6, (3, 3), strides, padding=padding, rngs=nnx.Rngs(0), **extra)
        for extra in ({"conv_general_dilated": convolution}, {})
    ]
    image = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 8)), float)

    def loss(image, layer):
        return (layer(image) ** 2).sum()

    results = [
        jax.value_and_grad(functools.partial(loss, layer=layer))(image)
        for layer in layers
    ]
    assert_close(*results, 2e-6)


def test_symbolic_batch_can_be_exported():
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)
    kernels = small_kernels()
    gradient = jax.jit(lambda x: jax.grad(small_network, argnums=1)(kernels, x))
    exported = jax.export.export(gradient)(images)
    concrete = jnp.asarray(
        np.random.default_rng(1).standard_normal((3, 8, 8, 3)), jnp.float32
    )
    assert_close(exported.call(concrete), gradient(concrete), 1e-6)
