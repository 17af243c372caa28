"""lacray: frame-wise video embeddings by differentiable local alignment."""

import os

__version__ = "0.1.0"

# torch's threads sleep while they wait for each other, they do not spin: where other processes take a core, all would
# spin for the one that is not running. OpenMP reads this once, when torch is imported; a value that is there wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
