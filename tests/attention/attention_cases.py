"""Small configurations and parameters shared by the attention tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attention import GroupedConfig, TransformerConfig, grouped, transformer


def layer_config(kv_heads, **options):
    """One layer with H = 4 and d_h = 4."""
    return GroupedConfig(**{"d_model": 16, "n_heads": 4, "n_kv_heads": kv_heads, **options})


def decoder_config(kv_heads, layer=None, **options):
    """Two layers over 11 tokens."""
    sizes = {"vocab_size": 11, "n_layers": 2, "d_ff": 24, **options}
    return TransformerConfig(mixer=layer_config(kv_heads, **(layer or {})), **sizes)


@functools.lru_cache
def _shapes(config, mixer):
    return jax.eval_shape(lambda key: transformer.init(key, config, mixer), jax.random.key(0))


def decoder_params(config, seed=0, mixer=None):
    """Normal weights of the scale d^(-1/2) and gains around one, without compiling `init`."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        if "norm" in jax.tree_util.keystr(path):
            return jnp.asarray(1.0 + 0.2 * noise)
        return jnp.asarray(noise * 16**-0.5)

    return jax.tree_util.tree_map_with_path(draw, _shapes(config, mixer))


def layer_params(config, seed=0):
    """The same for one layer."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: grouped.init(key, config), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 16**-0.5), shapes)
