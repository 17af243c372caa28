"""Differentiable alignment. Needs torch only."""

from lacray.ops.library import BuildError
from lacray.ops.operators import backend_name, require_native, soft_sw

__all__ = ["BuildError", "backend_name", "require_native", "soft_sw"]
