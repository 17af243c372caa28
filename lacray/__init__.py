"""lacray: frame-wise video embeddings, learned by aligning videos."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacray.apply import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

# torch's threads sleep while they wait for each other, they do not spin: where other processes take a core, all would
# spin for the one that is not running. OpenMP reads this once, when torch is imported; a value that is there wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    # `lacray.load` imports torch when it is asked for, not with the package: reports and renderers do without.
    if name == "load":
        from lacray.apply import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
