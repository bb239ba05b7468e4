"""U-Net and U-ViT: shapes, scans against plain loops, dropout, stems, precision, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import unet, wavelet
from diffusion.unet import UNet
from diffusion.uvit import UViT, product

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": (2, 2), "heads": (0, 2)}
NETWORKS = {
    "unet": UNet(**SMALL, classes=3),
    "deep": UNet(8, (1, 1, 2), (1, 1, 1), (0, 0, 1)),
    "conv": UNet(**SMALL, stem="conv", patch=2),
    "dwt": UNet(**SMALL, stem="dwt", patch=2, remat=True),
    "uvit": UViT(**SMALL, classes=3),
    "uvit-dwt": UViT(**SMALL, stem="dwt", patch=2, remat=True),
}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def weights(network, z, seed=0, scale=0.2):
    """Weights that are not zero, drawn without compiling `init`."""
    label = None if network.classes is None else jnp.zeros(len(z), int)
    shapes = jax.eval_shape(network.init, jax.random.key(0), z, jnp.zeros(len(z)), label)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), float), shapes
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_have_the_shape_of_z_and_start_at_zero(name):
    network, z, level = NETWORKS[name], draw(2, 8, 8, 3), jnp.array([-3.0, 3.0])
    params = jax.jit(network.init)(jax.random.key(0), z, level)
    apply = jax.jit(network.apply)
    np.testing.assert_array_equal(apply(params, z, level), jnp.zeros_like(z))
    params = weights(network, z)
    y = apply(params, z, level)
    assert y.shape == z.shape and np.abs(y).max() > 1e-3 and np.all(np.isfinite(y))
    assert np.abs(apply(params, z, level + 1.0) - y).max() > 1e-5
    if network.classes:
        given = apply(params, z, level, jnp.array([0, 1]))
        assert np.abs(given - apply(params, z, level, jnp.array([2, 1])))[0].max() > 1e-5
        np.testing.assert_allclose(apply(params, z, level, jnp.array([3, 3])), y, atol=1e-5)


def unscanned(network, params, z, level):
    """The same network by plain loops over blocks whose weights are taken apart."""
    p, size, skips = params["params"], z.shape[1], []
    context = unet.Context(4 * network.channels, network.classes)
    context = context.apply({"params": p["Context_0"]}, len(z), level, None, jnp.float32)

    def blocks(name, x, level_index, kept):
        made, stacked = [], p[name]["Block_0"]
        for i in range(network.blocks[level_index]):
            inside = x if kept is None else jnp.concatenate([x, kept[-1 - i]], axis=-1)
            one = {"params": jax.tree.map(lambda leaf, i=i: leaf[i], stacked)}
            x = network.block(level_index, size)().apply(one, inside, context, False)
            made.append(x)
        return x, made

    def conv(name, x, strides=1):
        kernel, bias = p[name]["kernel"], p[name]["bias"]
        rule = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, kernel, (strides, strides), "SAME", dimension_numbers=rule
        )
        return y + bias

    x, last = conv("read", z), len(network.blocks) - 1
    for i in range(last):
        x, made = blocks(f"down_{i}", x, i, None)
        skips.append(made)
        x = conv(f"smaller_{i}", x, 2)
    x, _ = blocks("bottom", x, last, None)
    for i in reversed(range(last)):
        x = conv(f"larger_{i}", jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
        x, _ = blocks(f"up_{i}", x, i, skips[i])
    norm = unet.nn.GroupNorm(x.shape[-1] // 4).apply({"params": p["Norm_0"]}, x)
    return conv("write", jax.nn.swish(norm))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["unet", "deep"])
def test_scans_are_loops_over_blocks_and_skips(name, x64):
    network, z, level = NETWORKS[name], draw(2, 8, 8, 3), jnp.array([-3.0, 3.0])
    params = weights(network, z)
    y = jax.jit(network.apply)(params, z, level)
    expected = jax.jit(functools.partial(unscanned, network))(params, z, level)
    np.testing.assert_allclose(y, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.sample(1)
@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (24, 2), (64, 16), (256, 32), (6, 1)])
def test_the_norm_is_flax_group_norm_then_scale_and_shift(channels, groups, x64):
    x, scale, shift = draw(2, 3, 5, channels), draw(2, channels, seed=1), draw(2, channels, seed=2)
    own = {"scale": draw(channels, seed=3), "bias": draw(channels, seed=4)}

    def expected(x, own, scale, shift):
        y = unet.nn.GroupNorm(groups).apply({"params": own}, x)
        return y * scale[:, None, None] + shift[:, None, None]

    def ours(x, own, scale, shift):
        return unet.Norm().apply({"params": own}, x, scale, shift)

    inputs, u = (x, own, scale, shift), draw(*x.shape, seed=5)
    np.testing.assert_allclose(ours(*inputs), expected(*inputs), atol=1e-12)
    sides = [
        jax.grad(lambda *a, f=f: jnp.vdot(f(*a), u), (0, 1, 2, 3))(*inputs)
        for f in (ours, expected)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), *sides)


@pytest.mark.parametrize(
    ("x", "w", "axes"), [((2, 3, 4), (4, 5, 6), 1), ((2, 3, 4, 5), (4, 5, 6), 2)]
)
def test_products_of_tokens_are_dot_general(x, w, axes, x64):
    x, w = draw(*x), draw(*w, seed=1)
    contracted = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
    sides = []
    for f in (product, jax.lax.dot_general):

        def loss(x, w, f=f):
            return jnp.sum(jnp.sin(f(x, w, (contracted, ((), ())))))

        sides.append(jax.value_and_grad(loss, (0, 1))(x, w))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), *sides)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [UNet, UViT])
def test_recomputation_changes_nothing(kind):
    z, level = draw(2, 8, 8, 2), jnp.zeros(2)
    plain, again = kind(**SMALL), kind(**SMALL, remat=True)
    params = weights(plain, z)

    def loss(params, network):
        return jnp.sum(network.apply(params, z, level) ** 2)

    gradients = [
        jax.jit(jax.grad(functools.partial(loss, network=n)))(params) for n in (plain, again)
    ]
    for first, second in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4 * np.abs(first).max() + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [UNet, UViT])
def test_dropout_acts_in_training_at_small_sizes_only(kind):
    z, level = draw(2, 8, 8, 2), jnp.zeros(2)
    params = weights(kind(**SMALL), z)

    def run(size, seed, train=True):
        network = kind(**SMALL, dropout=0.5, dropout_size=size)
        return network.apply(params, z, level, None, train, rngs={"dropout": jax.random.key(seed)})

    still = kind(**SMALL).apply(params, z, level)
    np.testing.assert_allclose(run(8, 0, train=False), still, atol=1e-5)
    np.testing.assert_allclose(run(2, 0), still, atol=1e-5)  # no level is so small
    assert np.abs(run(4, 0) - still).max() > 1e-4
    assert np.abs(run(4, 0) - run(4, 1)).max() > 1e-4


def test_stems_do_the_work_at_a_smaller_size():
    z = jnp.zeros((1, 16, 16, 3))
    sizes = {}
    for stem, patch in (("none", 1), ("conv", 4), ("dwt", 4)):
        network = UNet(**SMALL, stem=stem, patch=patch)
        traced = jax.make_jaxpr(lambda p, n=network: n.apply(p, z, jnp.zeros(1)))
        sizes[stem] = str(traced(weights(network, z)))
    assert "f32[1,16,16,8]" in sizes["none"]
    for stem in ("conv", "dwt"):
        assert "f32[1,16,16,8]" not in sizes[stem] and "f32[1,4,4,8]" in sizes[stem]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("stem", "channels"), [("dwt", 48), ("conv", 3)])
def test_predictions_are_written_back_to_full_size(stem, channels):
    """All weights but the last bias zero: its numbers are bands, or the pixels of each patch."""
    network, z = UNet(8, (1,), (1,), (0,), stem=stem, patch=4), draw(1, 8, 8, 3)
    params = jax.tree.map(jnp.zeros_like, weights(network, z))
    bias = draw(48)
    params["params"]["write"]["bias"] = bias
    y = network.apply(params, z, jnp.zeros(1))
    if stem == "dwt":
        expected = wavelet.inverse(jnp.broadcast_to(bias, (1, 2, 2, 48)), 2)
    else:
        expected = jnp.tile(bias.reshape(4, 4, channels), (2, 2, 1))[None]
    np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "uvit"])
def test_half_precision_computes_nearly_the_same(name):
    network, z, level = NETWORKS[name], draw(2, 8, 8, 3), jnp.zeros(2)
    params = weights(network, z)
    half = type(network)(**SMALL, classes=3, dtype=jnp.bfloat16)
    y, low = (jax.jit(n.apply)(params, z, level) for n in (network, half))
    assert low.dtype == jnp.float32
    assert all(
        leaf.dtype == jnp.float32
        for leaf in jax.tree.leaves(half.init(jax.random.key(0), z, level))
    )
    error = float(jnp.sqrt(jnp.mean((low - y) ** 2)) / jnp.sqrt(jnp.mean(y**2)))
    assert 0 < error < 0.02


def test_deeper_bottoms_do_not_compile_more_operations():
    z, level = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)

    def size(depth):
        network = UViT(8, (1, 2), (1, depth), (0, 2))
        return len(str(jax.make_jaxpr(lambda p: network.apply(p, z, level))(weights(network, z))))

    assert size(12) < 1.02 * size(3)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (UNet(8, (1, 2), (1,), (0, 0)), (1, 8, 8, 1), "multipliers, blocks, heads: expected one"),
        (UNet(0), (1, 8, 8, 1), "channels: expected at least 1, got 0"),
        (UNet(**SMALL), (1, 7, 8, 1), r"z: expected \[B, H, W, C\] with sides of 2 n"),
        (UNet(**SMALL, stem="conv", patch=4), (1, 12, 12, 1), "z: expected .* with sides of 8 n"),
        (UNet(**SMALL), (1, 8, 8), r"z: expected \[B, H, W, C\]"),
        (UNet(**SMALL, stem="patch"), (1, 8, 8, 1), "stem: expected one of .*'patch'"),
        (UNet(**SMALL, stem="dwt", patch=3), (1, 12, 12, 1), "patch: expected 1 without a stem"),
        (UNet(**SMALL, patch=2), (1, 8, 8, 1), "patch: expected 1 without a stem"),
        (UNet(8, (1, 2), (1, 1), (0, 3)), (1, 8, 8, 1), "heads: expected a divisor of 16"),
        (UViT(8, (1, 2), (1, 1), (0, 3)), (1, 8, 8, 1), "heads: expected a divisor of 16"),
        (UViT(**SMALL, positions=4), (1, 8, 8, 1), "positions: expected at least 16, places"),
    ],
)
def test_bad_sizes_are_refused_by_name(network, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1))
