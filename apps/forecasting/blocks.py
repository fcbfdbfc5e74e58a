"""The layers of SpaceTime: preprocessing filters, companion blocks of the encoder, the closed-loop decoder.

Shapes: D channels (r * C + i: variant r of target i), B windows, L observations, T steps ahead, d state size. Channels
stand first, (D, B, L): every product over channels is one GEMM, and a system is shared by neighbouring rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from farfield.apps.forecasting.config import DIFFERENCES, SpaceTimeConfig
from farfield.core_ops import companion_ssm, fftconv

# Below it a norm is left alone; the released network's number.
LEAST_NORM = 1e-4


def normalised(v: Tensor, config: SpaceTimeConfig) -> Tensor:
    """v / ||v||_p over the state, p = norm_order; v itself for p = 0."""
    if config.norm_order == 0:
        return v
    norm: Tensor = torch.linalg.vector_norm(v, ord=config.norm_order, dim=-1, keepdim=True)
    if config.compat:
        return torch.where(norm.mean() > LEAST_NORM, v / norm, v)
    return v / norm.clamp(min=LEAST_NORM)


def final_state(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """sum_l A^(L-1-l) b z_l: (D, B, L) and (D, d) x 2 -> (D, B, d)."""
    return companion_ssm.last_state(z.transpose(0, 1), a, b).transpose(0, 1)


def filter_rows(u: Tensor, k: Tensor) -> Tensor:
    """Causal convolution of every row (G, ..., L) with the filter of its group (G, L)."""
    rows = u.reshape(1, -1, u.shape[-1])
    y: Tensor = fftconv(rows, k)
    return y.reshape(u.shape)


class Preprocess(nn.Module):
    """Differences of order 0 to 3 and residuals from moving averages, each channel one of them; frozen.

    difference n: (1 - z^-1)^n; residual of window w: 1 - (1 + z^-1 + ... + z^-(w-1)) / w.

    Released: windows at random, other ones for every repeat. Corrected: four windows from the shortest to the longest
    in equal ratios, so that all repeats share eight filters.
    """

    diff_kernel: Tensor
    ma_r_kernel: Tensor

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        repeats = config.width // (2 * DIFFERENCES) if config.compat else 1
        if config.compat:
            windows = torch.randint(config.min_average, config.max_average, (repeats * DIFFERENCES,))
        else:
            ratio = torch.linspace(0, 1, DIFFERENCES, dtype=torch.float64)
            windows = (config.min_average * (config.max_average / config.min_average) ** ratio).round().long()
        self.register_buffer("diff_kernel", differences().repeat(repeats, 1))
        self.register_buffer("ma_r_kernel", average_residuals(windows, config.max_average))

    def filters(self) -> Tensor:
        """(V, taps): filter v = channel variant v modulo V."""
        taps = max(self.diff_kernel.shape[1], self.ma_r_kernel.shape[1])
        rows = []
        for bank in (self.diff_kernel, self.ma_r_kernel):
            rows.append(nn.functional.pad(bank, (0, taps - bank.shape[1])).reshape(-1, DIFFERENCES, taps))
        return torch.cat(rows, 1).flatten(0, 1)

    def forward(self, u: Tensor) -> Tensor:
        """(C, B, L) -> (V, C, B, L)."""
        k = self.filters()
        # The convolution as one GEMM: taps x positions of a padded view.
        padded = nn.functional.pad(u, (k.shape[1] - 1, 0))
        return torch.einsum("cblw,vw->vcbl", padded.unfold(-1, k.shape[1], 1), k.flip(1))


def differences() -> Tensor:
    """Taps of the differences of order 0 to 3, one a row: signed binomials."""
    return torch.tensor(
        [[(-1.0) ** j * math.comb(n, j) for j in range(DIFFERENCES)] for n in range(DIFFERENCES)],
        dtype=torch.get_default_dtype(),
    )


def average_residuals(windows: Tensor, taps: int) -> Tensor:
    """Taps of the residuals from moving averages of the windows, (n, taps)."""
    inside = torch.arange(taps)[None] < windows[:, None]
    kernel = -inside.to(torch.get_default_dtype()) / windows[:, None]
    kernel[:, 0] += 1
    return kernel


class Encoder(nn.Module):
    """The blocks that turn measured observations into the decoder's input."""

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CompanionBlock(config, first=i == 0) for i in range(config.n_blocks))

    def layers(self) -> list[CompanionBlock]:
        """The blocks in their order."""
        return [block for block in self.blocks if isinstance(block, CompanionBlock)]


class Decoder(nn.Module):
    """Holds the closed loop under its released name, `decoder.blocks`."""

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.blocks = ClosedLoop(config)


class CompanionBlock(nn.Module):
    """A layer of the encoder: y = mlp(ssm(z)) + skip, z the block's input, preprocessed in the first block.

    ssm(z) = conv(k, z) + skip * z with k_l = c^T A^l b, A the shift plus a in the last column;
    mlp(v) = v + W dropout(gelu(v)) + bias.

    Args:
        config: The network.
        first: Preprocess, share n_kernels systems, and take the covariates in.
    """

    def __init__(self, config: SpaceTimeConfig, first: bool) -> None:
        super().__init__()
        self.config = config
        self.pre = Preprocess(config) if first else None
        self.ssm = System(config, config.kernels if first else config.channels)
        self.ssm.skip = nn.Parameter(torch.randn(config.channels))
        self.mlp = Mixer(config.channels, config.channels, config.dropout)
        self.mix = nn.Linear(config.covariates, config.channels, bias=False) if first and config.covariates else None
        if self.mix is not None:
            nn.init.zeros_(self.mix.weight)

    def enter(self, u: Tensor, observed: Tensor | None, covariates: Tensor | None) -> Tensor:
        """The input of the first block's system.

        Args:
            u: (C, B, L), absent values filled.
            observed: (C, B, L) bool; what is absent does not enter the system.
            covariates: (B, L, covariates), absence marks last.
        Returns: (D, B, L)
        """
        assert self.pre is not None
        return self.mixed(self.pre(u), observed, covariates)

    def mixed(self, z: Tensor, observed: Tensor | None, covariates: Tensor | None) -> Tensor:
        """`enter` for inputs that are preprocessed, (V, C, B, L)."""
        config = self.config
        repeats = -(-config.width // z.shape[0])
        z = z.expand(repeats, *z.shape).flatten(0, 1)[: config.width]
        if observed is not None:
            z = z * observed
        z = z.flatten(0, 1)
        if covariates is not None and self.mix is not None:
            z = z + torch.einsum("blk,dk->dbl", covariates, self.mix.weight)
        return z

    def systems(self) -> tuple[Tensor, Tensor, Tensor]:
        """a, b, c of every channel, (D, d) each."""
        a, b, c = (self._spread(v) for v in self.ssm.system())
        return a, b, c

    def _spread(self, v: Tensor) -> Tensor:
        """(kernels, ...) to (D, ...): neighbouring variants share a system."""
        config = self.config
        if v.shape[0] == config.channels:
            return v
        heads = -(-config.width // v.shape[0])
        rows = v[:, None].expand(-1, heads, *v.shape[1:]).flatten(0, 1)[: config.width]
        return rows[:, None].expand(-1, config.targets, *v.shape[1:]).flatten(0, 1)

    def forward(self, z: Tensor) -> Tensor:
        """(D, B, L) -> (D, B, L)."""
        k = self.ssm.kernel(z.shape[-1])
        if self.config.channels % k.shape[0]:
            k = self._spread(k)
        return z + self.after(filter_rows(z, k), z)

    def after(self, v: Tensor, z: Tensor) -> Tensor:
        """What follows the system's convolution v of z."""
        v = torch.addcmul(v, self.ssm.skip[:, None, None], z)
        mixed: Tensor = self.mlp(v)
        return v + mixed


class System(nn.Module):
    """n companion systems x' = A x + b u, y = c^T x; a is normalised. What else a block needs of them, it adds."""

    a: Tensor
    b: Tensor
    skip: nn.Parameter
    k: nn.Parameter
    e: nn.Parameter

    def __init__(self, config: SpaceTimeConfig, n: int) -> None:
        super().__init__()
        self.config = config
        a, b, c = (torch.randn(n, config.kernel_dim) for _ in range(3))
        if config.system == "shift":
            self.register_buffer("a", torch.zeros_like(a))
            self.register_buffer("b", torch.eye(1, config.kernel_dim).repeat(n, 1))
        else:
            self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.c = nn.Parameter(c)

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """a, b, c as the recurrence takes them."""
        return normalised(self.a, self.config), self.b, self.c

    def kernel(self, length: int) -> Tensor:
        """(n, length): c^T A^l b."""
        return companion_ssm.companion_kernel(*self.system(), length)


class Mixer(nn.Module):
    """W dropout(gelu(v)) + bias over channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        # The released places in a list; the first two are computed by `forward`.
        self.layers = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(inputs, outputs))

    @property
    def linear(self) -> nn.Linear:
        """W and the bias."""
        linear = self.layers[2]
        assert isinstance(linear, nn.Linear)
        return linear

    @property
    def rate(self) -> float:
        """Share of activations left out in training."""
        dropout = self.layers[1]
        assert isinstance(dropout, nn.Dropout)
        return dropout.p

    def forward(self, v: Tensor) -> Tensor:
        """(D, B, L) -> (outputs, B, L)."""
        weight, active = self.linear.weight, nn.functional.gelu(v)
        if self.training and self.rate:
            active, share = thinned(active, self.rate)
            # The activations that are kept make up for the others in W, which is small.
            weight = weight / share
        return torch.addmm(self.linear.bias[:, None], weight, active.flatten(1)).reshape(-1, *v.shape[1:])


def thinned(x: Tensor, rate: float) -> tuple[Tensor, float]:
    """x with a random share of its entries zero, in place on a CPU, and what the others are to be divided by.

    On a CPU the rate is the nearest 256th, at least one: a byte for each entry, eight out of one draw, takes a tenth of
    the time of torch's Bernoulli draws.
    """
    if x.is_cuda:
        return nn.functional.dropout(x, rate), 1.0
    part = min(255, max(1, round(rate * 256)))
    draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    # Ones and zeros of x's dtype: a product with bool marks converts them twice.
    kept = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(draws.view(torch.uint8)[: x.numel()].view(x.shape), part, out=kept)
    return x.mul_(kept), 1 - part / 256


class Rollout(NamedTuple):
    """What turns a state into T outputs: `companion_ssm.closed_loop_factors`, and the response to the drive (D, T)."""

    first: Tensor
    terms: Tensor
    response: Tensor | None


class ClosedLoop(nn.Module):
    """The decoder: a state driven by what is observed, then by its own prediction of it.

    observed:  x_{t+1} = A (x_t + E v_t) + b u_t
    closed:    x_{t+1} = (A + b k^T) (x_t + E v_t),  y_t = c^T (x_t + E v_t)
    with v_t = W known_t the known covariates of the same step, one number a channel.

    Corrected: a, b and k are normalised everywhere and c nowhere, so that open and closed loop are one system.
    Released: the state is driven by b as it is, the closed loop by b and k normalised, c is normalised; the open loop
    normalises b, c and k.
    """

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.config = config
        self.ssm = System(config, config.channels)
        self.ssm.k = nn.Parameter(torch.randn(config.channels, config.kernel_dim))
        if config.compat:
            self.ssm.skip = nn.Parameter(torch.randn(config.channels))
        self.drive: nn.Linear | None = None
        if config.known:
            self.ssm.e = nn.Parameter(torch.randn(config.channels, config.kernel_dim))
            self.drive = nn.Linear(config.known, config.channels, bias=False)
            nn.init.zeros_(self.drive.weight)

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """a, b of the state, and b, c, k of the loop: (D, d) each."""
        a, b, c = self.ssm.system()
        k: Tensor = self.ssm.k
        unit = normalised(b, self.config)
        if self.config.compat:
            # Released: without a norm, the loop reads b in the place of k.
            k = normalised(k, self.config) if self.config.norm_order else b
            return a, b, unit, normalised(c, self.config), k
        return a, unit, unit, c, normalised(k, self.config)

    def drives(self, known: Tensor | None) -> Tensor | None:
        """(B, T, known) -> (D, B, T)."""
        if known is None or self.drive is None:
            return None
        return torch.einsum("btk,dk->dbt", known, self.drive.weight).contiguous()

    def state(self, z: Tensor, drive: Tensor | None = None) -> Tensor:
        """The state after the lags, x_L = sum_l A^(L-1-l) (b z_l + A E v_l).

        Args:
            z: (D, B, L)
            drive: (D, B, L) of the same steps.
        Returns: (D, B, d)
        """
        a, b, *_ = self.parts()
        x = final_state(z, a, b)
        return x if drive is None else x + final_state(drive, a, companion_ssm.advance(self.impulse(), a, 1))

    def impulse(self) -> Tensor:
        """E, what a drive of one adds to the state, (D, d)."""
        return normalised(self.ssm.e, self.config)

    def rollout(self, horizon: int) -> Rollout:
        """The loop's outputs c^T (A + b k^T)^t x, t < T, as factors without a batch; the response of one drive."""
        a, _, b, c, k = self.parts()
        first, terms = companion_ssm.closed_loop_factors(a, b, c, k, horizon)
        if self.drive is None:
            return Rollout(first, terms, None)
        response = companion_ssm.closed_loop_outputs(self.impulse()[:, None], first, terms)[:, 0]
        return Rollout(first, terms, response)

    def closed(self, z: Tensor, horizon: int, known: Tensor | None = None) -> Tensor:
        """T steps from the lags: (D, B, L) and known (B, L + T, known) -> (D, B, T)."""
        lag = z.shape[-1]
        past = None if known is None else known[:, :lag]
        return self.ahead(self.state(z, self.drives(past)), self.rollout(horizon), known)

    def ahead(self, x: Tensor, rollout: Rollout, known: Tensor | None) -> Tensor:
        """T steps from a state (D, B, d): `rollout(T)`, and known of which the last T steps are read."""
        y = companion_ssm.closed_loop_outputs(x, rollout.first, rollout.terms)
        if rollout.response is None or known is None:
            return y
        drive = self.drives(known[:, -rollout.terms.shape[-1] :])
        assert drive is not None
        return y + filter_rows(drive, rollout.response)

    def open(self, z: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step ahead everywhere: predictions after each observation of the output and of the next input.

        Args:
            z: (D, B, L)
            known: (B, L + 1 or more, known)
        Returns: (D, B, L) each; step t holds what is said of t + 1.
        """
        config, (a, b, _, c, k) = self.config, self.parts()
        if config.compat:
            order = config.norm_order
            b, c, k = (v / torch.linalg.vector_norm(v, ord=order, dim=-1, keepdim=True) for v in (b, c, self.ssm.k))
        outputs = [filter_rows(z, companion_ssm.companion_kernel(a, b, v, z.shape[-1])) for v in (c, k)]
        drive = self.drives(known)
        if drive is not None:
            seen = drive[..., : z.shape[-1] + 1].contiguous()
            for i, v in enumerate((c, k)):
                reply = companion_ssm.companion_kernel(a, self.impulse(), v, seen.shape[-1])
                outputs[i] = outputs[i] + filter_rows(seen, reply)[..., 1:]
        return outputs[0], outputs[1]
