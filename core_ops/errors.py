"""What core_ops raises: each message says what arrived, what is accepted and what to do next."""


class ShapeError(ValueError):
    """A tensor's shape, or a mode that the shapes do not allow."""


class DtypeError(TypeError):
    """A tensor's dtype or device."""


class KernelUnavailable(RuntimeError):
    """An implementation was named that this machine, or this call, cannot run."""


class DomainError(ValueError):
    """A number outside of what an operation is defined for: a query, a knot, a matrix that is singular, a NaN."""
