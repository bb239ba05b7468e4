"""Densities in several dimensions, as products of one-dimensional conditional densities.

    log p(x) = sum_d log p(x_d | x_1, .., x_{d-1})

A network whose d-th output sees only the coordinates before the d-th (see `networks`) gives the
parameters of all factors at once; a head (see `heads`) turns them into densities:

    head = heads.Fourier(order=16)
    model = autoregressive.model(networks.masked_mlp(2, head.outputs), head)
    params = model.init(jax.random.key(0))
    loss = -model.log_prob(params, x).mean()            # x [B, 2]
    x = model.sample(params, seed=key, sample_shape=(100,))

Training and evaluation take one pass of the network, sampling takes one for each coordinate.

Source: https://kexue.fm/archives/10007 and arXiv 2402.15345 name this way to many dimensions; the
factorisation is that of Bengio and Bengio (NeurIPS 1999).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from fourier_density import checks, entropy_model
from fourier_density.checks import Seed, Shape
from fourier_density.heads import Head
from fourier_density.networks import Network, Params


class Model(NamedTuple):
    """Pure functions of the parameters of the network.

    Attributes:
        init: key -> parameters.
        densities: (params, x [..., D], key=None) -> the D conditional densities, a batch [..., D];
            with several heads a list of D batches [...].
        log_prob: (params, x [..., D], key=None) -> [...], nats. A key turns dropout on.
        log_level_prob: (params, v [..., D], *, step=1.0, low=None, high=None, key=None) -> [...]:
            log probability in nats of quantised v, by bin masses (`entropy_model.log_bin_prob`).
        sample: (params, *, seed, sample_shape=(), quantise=None) -> [*sample_shape, D]; quantise is
            applied to each coordinate before the next one sees it.
    """

    init: Callable[[Key[Array, ""]], Params]
    densities: Callable[..., Any]
    log_prob: Callable[..., Array]
    log_level_prob: Callable[..., Array]
    sample: Callable[..., Array]


def model(network: Network, head: Head | Sequence[Head]) -> Model:
    """A density of D dimensions: log p(x) = sum_d log p(x_d | x_1, .., x_{d-1}).

    Args:
        network: autoregressive; its `outputs` must be the head's (of several heads, the largest).
        head: one head for all coordinates, or a sequence of D heads: to mix angles and numbers.

    Raises:
        ValueError: another number of heads than of coordinates, another number of outputs than the
            heads want; parameters that the network does not make, x of another width, or NaN.

    Source: Bengio and Bengio (NeurIPS 1999); https://kexue.fm/archives/10007, below equation 17.
    """
    checks.kind("network", network, Network)
    size = network.dimensions
    each = list(head) if isinstance(head, Sequence) else [head]
    if len(each) not in (1, size) or (isinstance(head, Sequence) and len(each) != size):
        raise ValueError(f"head: expected one, or {size} of them, got {len(each)}")
    wanted = max(one.outputs for one in each)
    if network.outputs != wanted:
        raise ValueError(f"network: expected {wanted} outputs, got {network.outputs}")
    single = not isinstance(head, Sequence)

    def densities(params: Params, x: Any, key: Any = None) -> Any:
        checks.parameters(params, network.init)
        raw = network.apply(params, _checked(x, size), key)
        if single:
            return each[0].density(raw)
        return [one.density(raw[..., d, : one.outputs]) for d, one in enumerate(each)]

    def total(params: Params, x: Any, key: Any, log: Callable[[Any, Array], Array]) -> Array:
        found, x = densities(params, x, key), _checked(x, size)
        if single:
            return jnp.sum(log(found, x), axis=-1)
        terms = [log(one, x[..., d]) for d, one in enumerate(found)]
        return jnp.sum(jnp.stack(terms), axis=0)

    def log_prob(params: Params, x: Any, key: Any = None) -> Array:
        return total(params, x, key, lambda density, values: density.log_prob(values))

    def log_level_prob(
        params: Params,
        v: Any,
        *,
        step: float = 1.0,
        low: float | None = None,
        high: float | None = None,
        key: Any = None,
    ) -> Array:
        def log(density: Any, values: Array) -> Array:
            return entropy_model.log_bin_prob(density, values, step=step, low=low, high=high)

        return total(params, v, key, log)

    return Model(network.init, densities, log_prob, log_level_prob, _sampler(network, each))


def _sampler(network: Network, each: list[Head]) -> Callable[..., Array]:
    """Coordinate by coordinate; in one loop if they share a head."""
    size = network.dimensions

    def sample(
        params: Params,
        *,
        seed: Seed,
        sample_shape: Shape = (),
        quantise: Callable[[Array], Array] | None = None,
    ) -> Array:
        def drawn(x: Array, d: Any, one: Head) -> Array:
            raw = jax.lax.dynamic_index_in_dim(network.apply(params, x), d, -2, keepdims=False)
            density = one.density(raw[..., : one.outputs])
            value = density.sample(seed=jax.random.fold_in(seed, d))
            value = value if quantise is None else quantise(value)
            return jax.lax.dynamic_update_index_in_dim(x, value.astype(x.dtype), d, -1)

        checks.parameters(params, network.init)
        seed, shape = checks.draws(seed, sample_shape)
        x = jnp.zeros((*shape, size))
        if len(each) == 1:
            return jax.lax.fori_loop(0, size, lambda d, x: drawn(x, d, each[0]), x)
        for d, one in enumerate(each):
            x = drawn(x, d, one)
        return x

    return sample


def _checked(x: Any, size: int) -> Array:
    x = jnp.asarray(x, jnp.result_type(float))
    if x.ndim < 1 or x.shape[-1] != size:
        raise ValueError(f"x: expected [..., {size}], got {x.shape}")
    known = checks.concrete(x)
    if known is not None and np.isnan(known).any():
        raise ValueError("x: expected numbers, got NaN")
    return x
