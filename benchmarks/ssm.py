"""Speed, memory and errors of the state-space kernels beside the usual forms, in one process.

    python benchmarks/ssm.py [--channels 128] [--size 64] [--lengths 1024 4096 16384] [--rounds 7]
                             [--only kernels rtf s5 selective long]

    kernels  S4 against the broadcast Cauchy form of the public JAX code (all modes and
             frequencies, the differences of all pairs in memory), S4D and DSS against
             exp(l dt lambda) of all steps and an einsum; beside the floor, one real FFT of the
             padded input there and back
    rtf      kernels of rational transfer functions against their order, beside the same floor;
             and 16384 steps read as a prompt, with the state for what follows, beside the same
             convolution without it
    s5       a layer of S5, its products with B and C included, forward and with its gradient,
             by every method, against a complex associative scan
    selective  Mamba's recurrence over 4096 steps by chunks, forward and with its gradient,
             against a prefix scan of the states of all steps
    long     kernels of 2^20 steps at 8 channels, each in a process of its own: the largest
             error against exact sums at spots, and the peak of resident memory

Times are the smallest of several rounds, in alternation; compilation is not counted in them.
Errors are relative to the largest value of the same in double precision from the same numbers.
Memory is the compiler's own account of temporaries.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this file has the name of the package

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import compiled, fastest
from ssm import diagonal, dss, hippo, recurrence, rtf, s4, s4d, s5, selective

MEBI = 2**20


def single(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def error(value, exact):
    exact = np.asarray(exact)
    return np.abs(np.asarray(value, np.float64) - exact).max() / np.abs(exact).max()


def steps(channels):
    return np.geomspace(1e-3, 1e-1, channels)


def s4_system(channels, size, length):
    """LegS with random outputs, built in double precision."""
    legs = hippo.dplr("legs", size)
    C = np.random.default_rng(0).normal(size=(channels, size)) @ legs.V
    parts = [
        np.broadcast_to(part, (channels, *part.shape)) for part in (legs.Lambda, legs.P, legs.B)
    ]
    return s4.from_dplr(*parts, C, np.zeros(channels), steps(channels), length)


def s4d_system(channels, size):
    Lambda, B = s4d.poles("lin", size // 2)
    C = np.random.default_rng(0).normal(size=(2, channels, size // 2))
    parts = [np.broadcast_to(part, (channels, size // 2)) for part in (Lambda, B)]
    return s4d.from_diagonal(*parts, C[0] + 1j * C[1], np.zeros(channels), steps(channels))


def broadcast_cauchy(Lambda, P, B, C, dt, length):
    """S4's kernel from all modes and frequencies, as it is usually written."""
    z = jnp.exp(-2j * jnp.pi * jnp.arange(length) / length)

    def one(Lambda, P, B, C, dt):
        g = (2.0 / dt) * (1.0 - z) / (1.0 + z)

        def sums(v):
            return jnp.sum(v / (g[:, None] - Lambda), axis=-1)

        inner = sums(C * P) / (1.0 + sums(P.conj() * P)) * sums(P.conj() * B)
        return jnp.fft.ifft(2.0 / (1.0 + z) * (sums(C * B) - inner), length).real

    return jax.vmap(one)(Lambda, P, B, C, dt)


def exp_einsum(system, length):
    """S4D's kernel from a table of all powers."""
    Lambda, B, C = (jax.lax.complex(*pair) for pair in (system.Lambda, system.B, system.C))
    z = system.dt[:, None] * Lambda
    weights = C * B * jnp.expm1(z) / Lambda
    powers = jnp.exp(z[..., None] * jnp.arange(length))
    return 2.0 * jnp.einsum("hn,hnl->hl", weights, powers).real


def kernels(channels, size, lengths, rounds):
    print(f"Kernels of {channels} channels, {size} modes (half of them by conjugates), float32\n")
    print("| L | | ms | floors | slower than ours | error | temporary MiB | compile s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for length in lengths:
        with jax.enable_x64(True):
            double = {"S4": s4_system(channels, size, length), "S4D": s4d_system(channels, size)}
            softmax = dss.from_weights(
                jax.lax.complex(*double["S4D"].Lambda),
                jax.lax.complex(*double["S4D"].C),
                np.zeros(channels),
                steps(channels),
                length,
            )
            double |= {"DSS softmax": softmax}
            modules = {"S4": s4, "S4D": s4d, "DSS softmax": dss}
            systems = {name: single(system) for name, system in double.items()}
            # The exact kernels of the rounded numbers.
            exact = {
                name: modules[name].kernel(jax.tree.map(lambda x: x.astype(float), one), length)
                for name, one in systems.items()
            }
        u = jnp.ones((channels, 2 * length), jnp.float32)
        rows = {"floor": compiled(lambda u, n=2 * length: jnp.fft.irfft(jnp.fft.rfft(u), n), u)}
        for name, system in systems.items():
            rows[name] = compiled(lambda s, f=modules[name].kernel, n=length: f(s, n), system)
        one = systems["S4"]
        full = [jax.lax.complex(*pair) for pair in (one.Lambda, one.P, one.B, one.C)]
        full[1] = full[1][:, 0]
        full = [jnp.concatenate([part, part.conj()], axis=-1) for part in full]
        rows["S4, broadcast"] = compiled(
            lambda *a, n=length: broadcast_cauchy(*a, n), *full, one.dt
        )
        rows["S4D, exp/einsum"] = compiled(lambda s, n=length: exp_einsum(s, n), systems["S4D"])
        times = dict(zip(rows, fastest(rounds, *(row[0] for row in rows.values())), strict=True))
        for name, (call, seconds, memory) in rows.items():
            base = name.split(",")[0]
            ratio = f"{times[name] / times[base]:.1f}" if base != name else ""
            off = "" if name == "floor" else f"{error(call(), exact[base]):.1e}"
            print(
                f"| {length} | {name} | {1e3 * times[name]:.2f} "
                f"| {times[name] / times['floor']:.2f} | {ratio} | {off} "
                f"| {memory / MEBI:.1f} | {seconds:.1f} |",
                flush=True,
            )


def rational_system(channels, order, length):
    rng = np.random.default_rng(order)
    b, a = rng.uniform(-1.0 / order, 1.0 / order, (2, channels, order)).astype(np.float32)
    return rtf.from_coefficients(b, a, np.ones(channels, np.float32), length)


def rational(channels, lengths, rounds, orders=(4, 64, 512)):
    print(f"\nKernels of RTF, {channels} channels, float32\n")
    print("| L | N | ms | floors | of N = 4 | error | temporary MiB | exact form, floors |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for length in lengths:
        u = jnp.ones((channels, 2 * length), jnp.float32)
        rows = [compiled(lambda u, n=2 * length: jnp.fft.irfft(jnp.fft.rfft(u), n), u)]
        systems = [rational_system(channels, order, length) for order in orders]
        plain = [jax.jit(rtf.exact)(one) for one in systems]
        rows += [compiled(lambda s, n=length: rtf.kernel(s, n), one) for one in systems + plain]
        times = fastest(rounds, *(row[0] for row in rows))
        for i, (order, one) in enumerate(zip(orders, systems, strict=True), start=1):
            with jax.enable_x64(True):
                exact = rtf.kernel(jax.tree.map(lambda x: x.astype(float), one), length)
            print(
                f"| {length} | {order} | {1e3 * times[i]:.2f} | {times[i] / times[0]:.2f} "
                f"| {times[i] / times[1]:.2f} | {error(rows[i][0](), exact):.1e} "
                f"| {rows[i][2] / MEBI:.1f} | {times[i + len(orders)] / times[0]:.2f} |",
                flush=True,
            )


def prompts(channels, order, rounds, length=16384, more=64, batch=4):
    print(f"\nA prompt of {length} steps, {batch} signals, {channels} channels, N = {order}\n")
    print(
        "| precision | convolution ms | with the state | more time | more MiB | error of the next |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for precision in (jnp.float32, jnp.float64):
        with jax.enable_x64(precision == jnp.float64):
            one = rational_system(channels, order, length + more)
            one = jax.tree.map(lambda x, p=precision: x.astype(p), one)
            u = np.random.default_rng(0).normal(size=(batch, length + more, channels))
            u = jnp.asarray(u, precision)
            rows = [compiled(f, one, u[:, :length]) for f in (rtf.apply, rtf.prefill)]
            times = fastest(rounds, *(row[0] for row in rows))
            (state, _), whole = rows[1][0](), jax.jit(rtf.apply)(one, u)[:, length:]
            prepared = rtf.prepare(one)
            body = lambda x, now, p=prepared: rtf.step(p, x, now)  # noqa: E731
            rest = jax.lax.scan(body, state, u[:, length:].swapaxes(0, 1))[1].swapaxes(0, 1)
            print(
                f"| {np.dtype(precision)} | {1e3 * times[0]:.1f} | {1e3 * times[1]:.1f} "
                f"| {100 * (times[1] / times[0] - 1):.1f} % "
                f"| {(rows[1][2] - rows[0][2]) / MEBI:.1f} | {error(rest, whole):.1e} |",
                flush=True,
            )


def complex_scan(system, u):
    """S5's layer as it is usually written."""
    rule = (system.Lambda, system.dt, system.discretization)
    a = jax.lax.complex(*diagonal.multipliers(*rule))
    gains = jax.lax.complex(*diagonal.gains(*rule))
    B, C = jax.lax.complex(*system.B), jax.lax.complex(*system.C)
    inputs = jax.vmap(lambda now: gains * (B @ now))(u)
    multipliers = jnp.broadcast_to(a, inputs.shape)

    def combine(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    _, x = jax.lax.associative_scan(combine, (multipliers, inputs))
    return 2.0 * jax.vmap(lambda now: (C @ now).real)(x) + system.D * u


def layer(channels, modes, length, rounds):
    print(f"\nA layer of S5, {channels} channels, {modes} complex modes, {length} steps, float32\n")
    print("| | forward ms | of usual | gradient ms | of usual | error | MiB | compile s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    config = s5.Config(channels, modes)
    with jax.enable_x64(True):
        double = s5.system(s5.init(jax.random.key(0), config), config)
        u = jnp.asarray(np.random.default_rng(0).normal(size=(length, channels)))
        one = single(double)
        exact = s5.apply(
            jax.tree.map(lambda x: x.astype(float), one), u.astype(jnp.float32).astype(float)
        )
    u = u.astype(jnp.float32)
    forms = {"complex associative scan": complex_scan}
    forms |= {m: lambda s, u, m=m: s5.apply(s, u, method=m) for m in recurrence.METHODS}
    forward, backward = {}, {}
    for name, form in forms.items():
        forward[name] = compiled(form, one, u)
        loss = lambda s, u, f=form: jnp.sum(f(s, u) ** 2)  # noqa: E731
        backward[name] = compiled(jax.value_and_grad(loss, (0, 1)), one, u)
    calls = [row[0] for row in (*forward.values(), *backward.values())]
    times = fastest(rounds, *calls)
    ahead, back = times[: len(forms)], times[len(forms) :]
    for i, name in enumerate(forms):
        print(
            f"| {name} | {1e3 * ahead[i]:.1f} | {ahead[0] / ahead[i]:.2f}x | {1e3 * back[i]:.1f} "
            f"| {back[0] / back[i]:.2f}x | {error(forward[name][0](), exact):.1e} "
            f"| {forward[name][2] / MEBI:.0f}, {backward[name][2] / MEBI:.0f} "
            f"| {forward[name][1]:.1f}, {backward[name][1]:.1f} |"
        )


def all_prefixes(u, dt, A, B, C):
    """Mamba's recurrence by one prefix scan, all states in memory."""
    fade = jnp.exp(dt[..., None] * A)
    driven = (dt * u)[..., None] * B[..., None, :]

    def combine(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    _, x = jax.lax.associative_scan(combine, (fade, driven), axis=1)
    return jnp.sum(x * C[..., None, :], axis=-1)


def selective_scan(channels, states, length, rounds):
    print(f"\nSelective scan, {channels} channels, {states} states, {length} steps, float32\n")
    print("| | forward ms | of prefixes | gradient ms | of prefixes | error | MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rng = np.random.default_rng(0)
    u = rng.normal(size=(1, length, channels))
    dt = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), u.shape))
    B, C = rng.normal(size=(2, 1, length, states))
    inputs = (u, dt, -np.tile(np.arange(1.0, states + 1), (channels, 1)), B, C)
    with jax.enable_x64(True):
        exact = jax.jit(lambda *parts: selective.scan(*parts)[0])(*map(jnp.asarray, inputs))
    forms = {"prefixes of all": all_prefixes}
    forms |= {
        f"chunks, {m}": lambda *parts, m=m: selective.scan(*parts, method=m)[0]
        for m in selective.METHODS
    }
    inputs = [jnp.asarray(part, jnp.float32) for part in inputs]
    forward = [compiled(form, *inputs) for form in forms.values()]
    losses = [lambda *p, f=form: jnp.sum(f(*p) ** 2) for form in forms.values()]
    backward = [compiled(jax.grad(loss, tuple(range(5))), *inputs) for loss in losses]
    times = fastest(rounds, *(row[0] for row in (*forward, *backward)))
    ahead, back = times[: len(forms)], times[len(forms) :]
    for i, name in enumerate(forms):
        print(
            f"| {name} | {1e3 * ahead[i]:.1f} | {ahead[0] / ahead[i]:.2f}x | {1e3 * back[i]:.1f} "
            f"| {back[0] / back[i]:.2f}x | {error(forward[i][0](), exact):.1e} "
            f"| {forward[i][2] / MEBI:.1f}, {backward[i][2] / MEBI:.1f} |"
        )


def peak_mib():
    """Peak of the resident memory of this process (Linux), not of the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


SPOTS = (0, 1, 12345, 524287, 1048575)


def one_long(name, channels=8, modes=32, length=MEBI):
    """One kernel of a million steps, and what a process needs for it."""
    before = peak_mib()
    inverse = s4d.poles("inv", modes)[0].imag
    Lambda = np.broadcast_to(np.complex64(-1e-2 + 1j * inverse), (channels, modes))
    C = np.random.default_rng(0).normal(size=(2, channels, modes)).astype(np.float32)
    C, dt = C[0] + 1j * C[1], np.full(channels, 1e-3, np.float32)
    zeros, ones = np.zeros(channels, np.float32), np.ones((channels, modes), np.float32)
    if name == "s4d":
        call = lambda: jax.jit(lambda s: s4d.kernel(s, length))(  # noqa: E731
            s4d.from_diagonal(Lambda, ones, C, zeros, dt)
        )
    else:
        both = lambda x: np.concatenate([x, x.conj()], axis=-1)  # noqa: E731
        P = np.zeros((channels, 1, 2 * modes), np.float32)
        system = s4.from_dplr(both(Lambda), P, both(ones), both(C), zeros, dt, length)
        call = lambda: jax.jit(lambda s: s4.kernel(s, length))(system)  # noqa: E731
    values = np.asarray(call())
    wide = np.float64(dt[0]) * Lambda[0].astype(complex)
    if name == "s4d":
        a, b = np.exp(wide), np.expm1(wide) / Lambda[0].astype(complex)
    else:
        a, b = (1 + wide / 2) / (1 - wide / 2), np.float64(dt[0]) / (1 - wide / 2)
    # log(a) in double precision keeps 1e-10 turns over a million steps.
    rows = [2.0 * (C.astype(complex) @ (b * np.exp(np.log(a) * k))).real for k in SPOTS]
    worst = np.abs(values[:, SPOTS] - np.array(rows).T).max() / np.abs(values).max()
    return {
        "error": float(worst),
        "finite": bool(np.isfinite(values).all()),
        "mib": peak_mib(),
        "start": before,
    }


def long():
    print("\nKernels of 2^20 steps, 8 channels, 32 pairs of the inverse frequencies, float32\n")
    print("| | error | finite | peak MiB of the process | before |")
    print("| --- | --- | --- | --- | --- |")
    for name in ("s4d", "s4"):
        command = [sys.executable, __file__, "--long", name]
        result = json.loads(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
        )
        print(
            f"| {name} | {result['error']:.1e} | {result['finite']} | {result['mib']:.0f} "
            f"| {result['start']:.0f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=["kernels", "rtf", "s5", "selective", "long"])
    parser.add_argument("--long", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.long:
        print(json.dumps(one_long(arguments.long)))
        sys.exit()
    if "kernels" in arguments.only:
        kernels(arguments.channels, arguments.size, arguments.lengths, arguments.rounds)
    if "rtf" in arguments.only:
        rational(arguments.channels, arguments.lengths, arguments.rounds)
        prompts(arguments.channels // 4, arguments.size, arguments.rounds)
    if "s5" in arguments.only:
        layer(arguments.channels, arguments.size, 4096, arguments.rounds)
    if "selective" in arguments.only:
        selective_scan(arguments.channels, 16, 4096, arguments.rounds)
    if "long" in arguments.only:
        long()
