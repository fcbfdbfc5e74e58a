"""C1 piecewise polynomials through Gauss points, at any query. Start at README.md."""

from .adapt import curvature, equidistribute, indicator_density
from .op import SplineCollocation
from .tensor import TensorCollocation

__all__ = ["SplineCollocation", "TensorCollocation", "curvature", "equidistribute", "indicator_density"]
