"""lacray: frame-wise video embeddings by differentiable local alignment."""

import os

__version__ = "0.1.0"

# Threads of torch's that wait for each other sleep in place of spinning: where other processes take a core, each of them
# would spin for the one that is not running. OpenMP reads this once, when torch is imported; a value that is there wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
