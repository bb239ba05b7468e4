# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The library in one sitting
#
# Four packages, one example of each. Everything is a pure function of arrays: it can be jitted,
# differentiated and vectorised.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

# %% [markdown]
# ## A density from samples
#
# `fit` finds the maximum-likelihood density among squares of trigonometric polynomials of an order,
# and bounds how much any other density of that order could gain.

# %%
import fourier_density

generator = np.random.default_rng(0)
samples = np.concatenate([generator.normal(-0.4, 0.08, 3000), generator.normal(0.3, 0.2, 5000)])
samples = samples[abs(samples) < 1]
result = fourier_density.fit(samples, order=12)
density = result.density
x = jnp.linspace(-1, 1, 400)
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].hist(samples, 80, density=True, color="#dddddd")
axes[0].plot(x, density.prob(x))
axes[1].plot(x, density.cdf(x))
axes[0].set_title("density"), axes[1].set_title("distribution function")
print(f"no density of order 12 gains more than {result.certificate:.1e} nats")

# %% [markdown]
# It is a pytree: here is the gradient of a tail probability with respect to all coefficients.

# %%
gradient = jax.jit(jax.grad(lambda density: density.survival_function(0.5)))(density)
print(jax.tree.map(lambda leaf: leaf.shape, gradient))

# %% [markdown]
# ## A memory, and a layer made from it
#
# HiPPO keeps a signal's past in N numbers. S4 turns that into a layer: a convolution over a whole
# signal, or a recurrence sample by sample, with the same parameters.

# %%
from ssm import online, s4

t = jnp.arange(1, 2001) / 2000
signal = jnp.sin(11 * t**2) + 0.5 * jnp.cos(37 * t)
states = online.project(signal, "legs", 48, method="trapezoid")
s = jnp.linspace(0, 1, 400)
figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
axis.plot(t, signal, color="#cccccc", linewidth=5, label="2000 samples")
axis.plot(s, online.reconstruct(states[-1], "legs", s), label="from 48 numbers")
_ = axis.legend()
# %%
layer = s4.mixer(s4.Config(channels=2, length=500))
params = layer.init(jax.random.key(0))
u = jax.random.normal(jax.random.key(1), (1, 500, 2))
whole = layer.apply(params, u)
prepared = layer.prepare(params)
state, steps = jax.lax.scan(
    lambda state, u_t: layer.step(prepared, state, u_t),
    layer.init_state(1, 0),
    jnp.moveaxis(u, 1, 0),
)
difference = abs(jnp.moveaxis(steps, 0, 1) - whole).max() / abs(whole).max()
print(f"largest difference: {difference:.1e} of the largest output")

# %% [markdown]
# ## Attention and what it caches
#
# The same decoder with four kinds of attention; `cache_bytes` counts what a token adds to the
# cache.

# %%
import attention
from attention import transformer

kinds = {
    "MHA": attention.GroupedConfig(d_model=64, n_heads=8, n_kv_heads=8),
    "GQA": attention.GroupedConfig(d_model=64, n_heads=8, n_kv_heads=2),
    "MQA": attention.GroupedConfig(d_model=64, n_heads=8, n_kv_heads=1),
    "MLA": attention.LatentConfig(d_model=64, n_heads=8, latent_dim=16, rope_dim=4),
}
for name, mixer in kinds.items():
    config = attention.TransformerConfig(vocab_size=256, n_layers=2, mixer=mixer)
    params = transformer.init(jax.random.key(0), config)
    text = attention.generate(params, config, jnp.ones((1, 4), int), max_new_tokens=8)
    token = attention.cache_bytes(config, batch=1, length=1)
    print(f"{name}: {token} bytes a token, {text.shape[1]} tokens")

# %% [markdown]
# ## Diffusion
#
# A ring of eight bumps in the plane has a denoiser in closed form. Sampling it needs no training,
# so it shows the sampler alone.

# %%
from diffusion import exact, samplers, schedules

denoiser = exact.denoiser(exact.ring(modes=8), "v")
z = jax.random.normal(jax.random.key(0), (800, 2))
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for axis, updates in zip(axes, (4, 8, 32), strict=True):
    logsnrs = schedules.cosine()(jnp.linspace(1, 0, updates + 1))
    points = samplers.sample(denoiser, z, logsnrs, method="dpmpp_2m", prediction="v")
    axis.scatter(*points.T, s=3)
    axis.set(title=f"{updates} updates", aspect="equal", xlim=(-2, 2), ylim=(-2, 2))

# %% [markdown]
# Where next: [which one should I use?](../../which/), a page for each post, and the API reference.
