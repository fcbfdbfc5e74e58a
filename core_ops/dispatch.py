"""Which implementation of a primitive runs a call: one registry a primitive, the choice logged once."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from .errors import KernelUnavailable

log = logging.getLogger("farfield.core_ops")
CallT = TypeVar("CallT")
RunT = TypeVar("RunT")


@dataclass(frozen=True)
class Implementation(Generic[CallT, RunT]):
    """One way to compute a primitive.

    Args:
        name: What `impl=` says.
        run: The function that computes.
        refuses: None where it can run the call, else why not and what to do.
        automatic: Whether `impl="auto"` may take it.
    """

    name: str
    run: RunT
    refuses: Callable[[CallT], str | None]
    automatic: bool = True


class Registry(Generic[CallT, RunT]):
    """The implementations of one primitive, fastest first.

    Args:
        primitive: The public function's name.
    """

    def __init__(self, primitive: str) -> None:
        self.primitive = primitive
        self.implementations: dict[str, Implementation[CallT, RunT]] = {}
        self.logged: set[str] = set()

    def register(self, implementation: Implementation[CallT, RunT]) -> None:
        """Add an implementation; earlier ones are preferred by `auto`."""
        self.implementations[implementation.name] = implementation

    def choose(self, name: str, call: CallT) -> Implementation[CallT, RunT]:
        """The implementation that runs this call.

        Args:
            name: "auto" or a registered name.
            call: What the call asks for.
        Returns: The first automatic implementation that does not refuse, or the one that was named.
        Raises: KernelUnavailable: the named one is unknown or refuses; nothing runs the call.
        """
        if name != "auto":
            if name not in self.implementations:
                known = ", ".join(["auto", *self.implementations])
                raise KernelUnavailable(f"{self.primitive}: impl={name!r} is not known here; known: {known}.")
            reason = self.implementations[name].refuses(call)
            if reason is not None:
                raise KernelUnavailable(f"{self.primitive}: impl={name!r} cannot run this call: {reason}")
            return self.implementations[name]
        for implementation in self.implementations.values():
            if implementation.automatic and implementation.refuses(call) is None:
                self.log_once(implementation.name)
                return implementation
        reasons = "; ".join(f"{i.name}: {i.refuses(call)}" for i in self.implementations.values() if i.automatic)
        raise KernelUnavailable(f"{self.primitive}: no implementation runs this call ({reasons})")

    def log_once(self, name: str) -> None:
        """Log the automatic choice the first time it is made."""
        if torch.compiler.is_compiling() or name in self.logged:
            return
        self.logged.add(name)
        log.info("%s: impl='auto' takes %r", self.primitive, name)
