"""Equations that can be simulated: where each is solved, and which of its parameters may differ from run to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Equation:
    """One equation.

    Args:
        target: module:function below this package; its keyword arguments are the recipe's settings, one value each.
        swept: Units of the settings that are lists of values to run through.
    """

    target: str
    swept: Mapping[str, str]

    def solver(self) -> Callable[..., Any]:
        """The function; what it needs is imported now."""
        module, name = self.target.split(":")
        solve: Callable[..., Any] = getattr(import_module(f"{__name__}.{module}"), name)
        return solve


EQUATIONS = {
    "heat": Equation(
        "heat_wave:heat",
        {
            "diffusivity": "m2 s-1",
            "amplitude": "K",
            "boundary_value": "K",
            "forcing": "K s-1",
            "forcing_frequency": "s-1",
        },
    ),
    "wave": Equation(
        "heat_wave:wave",
        {"speed": "m s-1", "damping": "s-1", "amplitude": "m", "forcing": "m s-2", "forcing_frequency": "s-1"},
    ),
    "navier-stokes": Equation(
        "navier_stokes:navier_stokes",
        {"viscosity": "m2 s-1", "speed": "m s-1", "density": "kg m-3", "forcing": "m s-2", "drag": "s-1"},
    ),
    "burgers": Equation("burgers:burgers", {"viscosity": "m2 s-1", "amplitude": "m s-1", "forcing": "m s-2"}),
    "heat-domain": Equation(
        "heat_domain:heat_domain",
        {
            "diffusivity": "m2 s-1",
            "amplitude": "K",
            "outer": "K",
            "hole": "K",
            "wall": "K",
            "outer_swing": "K",
            "hole_swing": "K",
            "wall_swing": "K",
            "swing_frequency": "s-1",
            "hole_radius": "m",
            "forcing": "K s-1",
            "forcing_frequency": "s-1",
        },
    ),
    "channel": Equation(
        "channel:channel",
        {"reynolds": "1", "speed": "m s-1", "radius": "m", "density": "kg m-3"},
    ),
}
