"""Attention and a Llama-style decoder in float64 NumPy: explicit loops over the equations.

Notation
    B, T, S  batch, query length, key length
    H, K     query heads, key/value heads

Source: Vaswani et al. (arXiv 1706.03762), eq. 1; Ainslie et al. (2305.13245); Su et al.
(2104.09864), section 3.2; Zhang & Sennrich (1910.07467), eq. 4; Shazeer (2002.05202), eq. 6.
"""

import numpy as np


def rotate(x, position, base=10_000.0, layout="half"):
    """RoPE of one vector: pair k, as a complex number, times exp(i position base^(-2k/d))."""
    d = len(x)
    out = np.empty(d)
    for k in range(d // 2):
        i, j = (2 * k, 2 * k + 1) if layout == "interleaved" else (k, k + d // 2)
        turned = complex(x[i], x[j]) * np.exp(1j * position * base ** (-2.0 * k / d))
        out[i], out[j] = turned.real, turned.imag
    return out


def may_attend(query_position, key_position, window=None):
    """Causal with a window that counts the query itself."""
    if key_position > query_position:
        return False
    return window is None or query_position - key_position < window


def causal(query_positions, key_positions, window=None):
    """The keep-mask of two vectors of positions."""
    return np.array([[may_attend(i, j, window) for j in key_positions] for i in query_positions])


def attend(q, k, v, mask=None, scale=None):
    """Q [B,H,T,d], k [B,K,S,d], v [B,K,S,e], mask [B,T,S] -> [B,H,T,e]; no key gives zeros."""
    q, k, v = (np.asarray(z, np.float64) for z in (q, k, v))
    batch, heads, queries, width = q.shape
    scale = 1.0 / np.sqrt(width) if scale is None else scale
    out = np.zeros((batch, heads, queries, v.shape[-1]))
    for b in range(batch):
        for h in range(heads):
            group = h // (heads // k.shape[1])
            for t in range(queries):
                seen = [s for s in range(k.shape[2]) if mask is None or mask[b, t, s]]
                if not seen:
                    continue
                scores = np.array([scale * np.dot(q[b, h, t], k[b, group, s]) for s in seen])
                weights = np.exp(scores - scores.max())
                weights = weights / weights.sum()
                for weight, s in zip(weights, seen, strict=True):
                    out[b, h, t] += weight * v[b, group, s]
    return out


def split(x, weight, width, positions=None, base=None, layout="half"):
    """Project [B,T,d] and view it as heads [B,n,T,width], rotated when positions are given."""
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64)
    batch, time, wide = y.shape
    out = np.empty((batch, wide // width, time, width))
    for b in range(batch):
        for t in range(time):
            for n in range(wide // width):
                head = y[b, t, n * width : (n + 1) * width]
                rotated = base is not None
                out[b, n, t] = rotate(head, positions[b, t], base, layout) if rotated else head
    return out


def layer(params, x, config, positions=None, mask=None):
    """Grouped-query self-attention of [B,T,d]; mask [B,T,T] is combined with the causal one."""
    batch, time, _ = x.shape
    if positions is None:
        positions = np.tile(np.arange(time), (batch, 1))
    keep = np.stack([causal(p, p, config.window) for p in positions])
    keep = keep if mask is None else keep & mask
    width = params["query"].shape[-1] // config.n_heads
    rope = {"positions": positions, "base": config.rope_base, "layout": config.rope_layout}
    q = split(x, params["query"], width, **rope)
    k = split(x, params["key"], width, **rope)
    v = split(x, params["value"], width)
    out = attend(q, k, v, keep)
    joined = np.concatenate([out[:, h] for h in range(config.n_heads)], axis=-1)
    return joined @ np.asarray(params["output"], np.float64)


def rms_norm(x, gain, eps):
    """X / sqrt(mean(x^2) + eps) * gain."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * gain


def silu(x):
    """X sigmoid(x)."""
    return x / (1.0 + np.exp(-x))


def swiglu(params, x):
    """(silu(x W_gate) * x W_up) W_down."""
    return (silu(x @ params["gate"]) * (x @ params["up"])) @ params["down"]


def to_float64(tree):
    """A nested dictionary of arrays as float64 NumPy."""
    if isinstance(tree, dict):
        return {name: to_float64(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)


def pick(tree, index):
    """One layer of stacked parameters."""
    if isinstance(tree, dict):
        return {name: pick(value, index) for name, value in tree.items()}
    return tree[index]


def decoder(params, tokens, config, positions=None, mask=None):
    """Logits [B,T,V] of the pre-norm decoder, layer by layer."""
    params = to_float64(params)
    x = params["embedding"][tokens]
    for index in range(config.n_layers):
        weights = pick(params["layers"], index)
        normed = rms_norm(x, weights["mixer_norm"], config.norm_eps)
        x = x + layer(weights["mixer"], normed, config.mixer, positions, mask)
        x = x + swiglu(weights["ffn"], rms_norm(x, weights["ffn_norm"], config.norm_eps))
    x = rms_norm(x, params["final_norm"], config.norm_eps)
    return x @ (params["embedding"].T if config.tie_embeddings else params["head"])


def greedy(params, prompt, count, config):
    """Continue one prompt by the argmax of a full forward pass at every step."""
    tokens = list(prompt)
    for _ in range(count):
        logits = decoder(params, np.array([tokens]), config)[0, -1]
        tokens.append(int(np.argmax(logits)))
    return tokens[len(prompt) :]


def yarn_frequencies(dim, base, factor, original, fast=32.0, slow=1.0):
    """YaRN's frequencies, one after the other, as its paper states them (NTK by parts)."""
    out = []

    def place(turns):
        return dim * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base))

    low, high = max(np.floor(place(fast)), 0), min(np.ceil(place(slow)), dim - 1)
    for k in range(dim // 2):
        theta = base ** (-2.0 * k / dim)
        ramp = min(max((k - low) / max(high - low, 1e-3), 0.0), 1.0)
        out.append(theta / factor * ramp + theta * (1.0 - ramp))
    return np.array(out)


def llama3_frequencies(dim, base, factor, low, high, original):
    """The frequencies of Llama 3.1, by wavelength."""
    out = []
    for k in range(dim // 2):
        theta = base ** (-2.0 * k / dim)
        length = 2 * np.pi / theta
        if length < original / high:
            out.append(theta)
        elif length > original / low:
            out.append(theta / factor)
        else:
            smooth = (original / length - low) / (high - low)
            out.append((1 - smooth) * theta / factor + smooth * theta)
    return np.array(out)


def latent_layer(params, x, config, positions=None, mask=None):
    """Multi-head latent attention of [B,T,d], token by token and head by head."""
    batch, time, _ = x.shape
    if positions is None:
        positions = np.tile(np.arange(time), (batch, 1))
    heads, plain, turned, wide = (
        config.n_heads, config.nope_dim, config.rope_dim, config.value_dim,
    )  # fmt: skip

    def turn(vector, position):
        if config.rope_base is None:
            return vector
        return rotate(vector, position, config.rope_base, config.rope_layout)

    q = np.zeros((batch, heads, time, plain + turned))
    k = np.zeros_like(q)
    v = np.zeros((batch, heads, time, wide))
    for b in range(batch):
        for t in range(time):
            hidden = x[b, t]
            if config.query_dim is None:
                query = hidden @ params["query"]
            else:
                short = rms_norm(
                    hidden @ params["query_down"], params["query_norm"], config.norm_eps
                )
                query = short @ params["query_up"]
            down = hidden @ params["down"]
            latent = rms_norm(down[: config.latent_dim], params["norm"], config.norm_eps)
            key = turn(down[config.latent_dim :], positions[b, t])
            both = latent @ params["up"]
            for h in range(heads):
                own = query[h * (plain + turned) : (h + 1) * (plain + turned)]
                q[b, h, t] = np.append(own[:plain], turn(own[plain:], positions[b, t]))
                part = both[h * (plain + wide) : (h + 1) * (plain + wide)]
                k[b, h, t] = np.append(part[:plain], key)
                v[b, h, t] = part[plain:]
    keep = np.stack([causal(p, p, config.window) for p in positions])
    keep = keep if mask is None else keep & mask
    out = attend(q, k, v, keep, (plain + turned) ** -0.5)
    joined = np.concatenate([out[:, h] for h in range(heads)], axis=-1)
    return joined @ params["output"]


def grouped_latent_layer(params, x, config):
    """Grouped latent attention of [B,T,d]: a latent for each group of heads, one rotated key."""
    batch, time, _ = x.shape
    c, groups = config, config.n_latents
    n, r, v = c.nope_dim, c.rope_dim, c.value_dim
    queries = np.zeros((batch, c.n_heads, time, n + r))
    keys, values = np.zeros_like(queries), np.zeros((batch, c.n_heads, time, v))
    for b in range(batch):
        for t in range(time):
            query, row = x[b, t] @ params["query"], x[b, t] @ params["down"]
            key = rotate(row[-r:], t, c.rope_base, c.rope_layout)
            for h in range(c.n_heads):
                own = query[h * (n + r) : (h + 1) * (n + r)]
                turned = rotate(own[n:], t, c.rope_base, c.rope_layout)
                queries[b, h, t] = np.append(own[:n], turned)
                group, place = divmod(h, c.n_heads // groups)
                latent = row[group * c.latent_dim : (group + 1) * c.latent_dim]
                latent = rms_norm(latent, params["norm"][group], c.norm_eps)
                both = latent @ params["up"][group][:, place * (n + v) : (place + 1) * (n + v)]
                keys[b, h, t], values[b, h, t] = np.append(both[:n], key), both[n:]
    keep = np.stack([causal(range(time), range(time), c.window)] * batch)
    out = attend(queries, keys, values, keep, (n + r) ** -0.5)
    return np.concatenate([out[:, h] for h in range(c.n_heads)], axis=-1) @ params["output"]
