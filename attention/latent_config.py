"""Sizes of multi-head latent attention, and when to use which of its forms.

Notation as in `latent`.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1.
"""

from dataclasses import KW_ONLY, dataclass

from attention import checks, kernels, long_context, rope

FORMS = ("materialised", "absorbed")


@dataclass(frozen=True)
class LatentConfig:
    """Sizes of one layer of multi-head latent attention (MLA).

    Attributes:
        d_model, n_heads: d, width of the residual stream, and H, query heads.
        latent_dim: d_c, width of the latent of keys and values.
        query_dim: d_q, width of the latent of queries; None projects queries directly.
        nope_dim, rope_dim, value_dim: d_n, d_r, d_v of a head: plain and rotated dimensions of
            queries and keys, dimensions of values; d_r may be 0 without rotary embedding.
        rope_base: base of the rotary frequencies; None turns rotary embedding off.
        rope_layout: "interleaved" (DeepSeek) or "half" pairs.
        rope_scaling: of the frequencies, for longer contexts.
        latent_norm: RMSNorm of both latents, that of keys and values and that of queries.
        norm_eps: epsilon of these norms.
        bias: biases of the projections down to both latents and of the output projection.
        window: number of keys a query sees, itself included; None means all before it.
        form: "materialised" or "absorbed" for whole sequences and chunks; None chooses by their
            length (see `crossover`). Single tokens are absorbed.
        quantised: keep the cache in int8, with two scales for each token.
        kernel: "xla", "cudnn" or "splash" for whole sequences; None takes the best there is (see
            `kernels`).
    """

    d_model: int = 128
    n_heads: int = 4
    latent_dim: int = 64
    _: KW_ONLY
    query_dim: int | None = None
    nope_dim: int = 32
    rope_dim: int = 16
    value_dim: int = 32
    rope_base: float | None = 10_000.0
    rope_layout: rope.Layout = "interleaved"
    rope_scaling: rope.Scaling | None = None
    latent_norm: bool = True
    norm_eps: float = 1e-6
    bias: bool = False
    window: int | None = None
    form: str | None = None
    quantised: bool = False
    kernel: str | None = None

    def __post_init__(self):
        names = ("d_model", "n_heads", "latent_dim", "query_dim", "nope_dim", "value_dim")
        checks.sizes(self, *names, "window")
        checks.whole("rope_dim", self.rope_dim, 0 if self.rope_base is None else 1)
        if self.rope_dim % 2:
            raise ValueError(f"rope_dim: expected an even number, got {self.rope_dim}")
        if self.rope_dim:
            rope.check(self.rope_dim, self.rope_layout, self.rope_scaling, self.rope_base)
        if not self.norm_eps >= 0:
            raise ValueError(f"norm_eps: expected at least 0, got {self.norm_eps}")
        if self.form not in (None, *FORMS):
            raise ValueError(f"form: expected one of {FORMS} or None, got {self.form!r}")
        kernels.check(self.kernel)

    @property
    def parts(self) -> tuple[int, int]:
        """d_c and d_r."""
        return self.latent_dim, self.rope_dim

    @property
    def cache_elements(self) -> int:
        """Elements cached per token and layer, d_c + d_r.

        Source: DeepSeek-V2 (arXiv 2405.04434), table 1.
        """
        return sum(self.parts)

    @property
    def scale(self) -> float:
        """What scores are multiplied by: (d_n + d_r)^(-1/2), also absorbed, and YaRN's factor.

        Source: DeepSeek-V2 (arXiv 2405.04434), equation 18, and section 3.1.4 for the factor.
        """
        scaling = self.rope_scaling if self.rope_dim else None
        return (self.nope_dim + self.rope_dim) ** -0.5 * long_context.score_factor(scaling)

    @property
    def crossover(self) -> float:
        """Query tokens above which expanding the cached latents costs less than absorbing.

        d_c (d_n + d_v) / (2 d_c - d_n - d_v).

        For each head and cached token, expanding costs 2 d_c (d_n + d_v) operations once and then
        saves 2 (2 d_c - d_n - d_v) for each query token. Infinite if that is not positive.

        Source: derived from https://kexue.fm/archives/10091, equations 10 and 12.
        """
        saved = 2 * self.latent_dim - self.nope_dim - self.value_dim
        full = self.latent_dim * (self.nope_dim + self.value_dim)
        return full / saved if saved > 0 else float("inf")

    def choose(self, queries: int) -> str:
        """The form, one of `FORMS`, for this number of query tokens."""
        if self.form is not None:
            return self.form
        return "materialised" if queries > self.crossover else "absorbed"
