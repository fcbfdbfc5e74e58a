"""The shape of a SpaceTime network: what is chosen, and every size that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from farfield.apps.training.errors import UserError

Transform = Literal["none", "mean", "last", "standardise"]
System = Literal["companion", "shift"]
DIFFERENCES = 4
"""Differences of order 0 to 3, as many moving-average residuals beside them."""


@dataclass(frozen=True)
class SpaceTimeConfig:
    """What a SpaceTime network is; every other size is derived.

    Args:
        lag: Observations that a window holds.
        horizon: Steps that training forecasts; `forward(horizon=...)` may ask for more.
        targets: Series forecast together.
        known: Covariates known in the future too: they drive the closed loop.
        past: Covariates known up to the forecast only.
        model_dim: Channels; rounded up to a multiple of `targets` (see `channels`).
        kernel_dim: State size d of every companion system.
        n_blocks: Encoder blocks.
        n_kernels: Systems of the first block, each shared by channels / n_kernels channels; no more than channels.
        dropout: Of the activations, in training.
        transform: What a window is measured against: its mean, its last value, mean and deviation, or nothing.
        system: companion, or shift (a finite filter of kernel_dim taps).
        norm_order: p of the norm that a, b and k are divided by; 0 leaves them as they are.
        min_average, max_average: Shortest and longest moving average of the preprocessing residuals.
        linear_skip: Add a linear map of the lags, last value subtracted, and a linear effect of the known covariates.
        epsilon: Least deviation that `standardise` divides by, relative to one unit of the series.
        compat: The network as released, quirks included: see the README.
    """

    lag: int
    horizon: int
    targets: int = 1
    known: int = 0
    past: int = 0
    model_dim: int = 128
    kernel_dim: int = 64
    n_blocks: int = 1
    n_kernels: int = 16
    dropout: float = 0.25
    transform: Transform = "mean"
    system: System = "companion"
    norm_order: int = 1
    min_average: int = 4
    max_average: int = 64
    linear_skip: bool = False
    epsilon: float = 1e-5
    compat: bool = False

    def __post_init__(self) -> None:
        """Refuses what no network has."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name}={value!r}: a whole number from {least} on is accepted")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout}: a number from 0 to below 1 is accepted")
        if not self.epsilon > 0:
            raise UserError(f"epsilon={self.epsilon}: a number above 0 is accepted")
        for name, accepted in (("transform", get_args(Transform)), ("system", get_args(System))):
            if getattr(self, name) not in accepted:
                raise UserError(f"{name}={getattr(self, name)!r} is unknown; accepted: {', '.join(accepted)}")
        if self.min_average > self.max_average:
            raise UserError(f"min_average={self.min_average} is above max_average={self.max_average}; exchange them")
        if self.compat:
            self._check_released()

    def _check_released(self) -> None:
        unit = 2 * DIFFERENCES * self.targets
        if self.model_dim % unit or (self.model_dim // self.targets) % self.n_kernels:
            raise UserError(
                f"model_dim={self.model_dim}: the released network needs a multiple of {unit} ({2 * DIFFERENCES}"
                f" kernels for each of {self.targets} targets) that n_kernels={self.n_kernels} divides; take"
                " compat=False for any"
            )
        if self.known or self.past or self.linear_skip:
            raise UserError("compat=True: the released network has no covariates and no linear skip; take compat=False")

    @property
    def width(self) -> int:
        """Channels for each target."""
        return -(-self.model_dim // self.targets)

    @property
    def channels(self) -> int:
        """Channels of every block: channel r * targets + i reads target i."""
        return self.width * self.targets

    @property
    def kernels(self) -> int:
        """Systems of the first block."""
        return min(self.n_kernels, self.width)

    @property
    def covariates(self) -> int:
        """Inputs of the encoder beside the targets: known, past and one absence mark a target."""
        return 0 if self.compat else self.known + self.past + self.targets

    @classmethod
    def of(cls, settings: dict[str, Any], **derived: Any) -> SpaceTimeConfig:
        """From plain settings, an unknown key named.

        Raises: UserError: a key that no network has.
        """
        names = [f.name for f in fields(cls)]
        if unknown := sorted(set(settings) - set(names)):
            raise UserError(f"model.{unknown[0]} is unknown; accepted: {', '.join(names)}")
        return cls(**{**settings, **derived})


_LEAST = {
    **dict.fromkeys(("lag", "horizon", "targets", "model_dim", "kernel_dim", "n_blocks", "n_kernels"), 1),
    **dict.fromkeys(("known", "past", "norm_order"), 0),
    **dict.fromkeys(("min_average", "max_average"), 1),
}
