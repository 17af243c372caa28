"""A trained encoder put to work: plain functions on a loaded model, without Ray.

model = lacray.load("results/train/checkpoints/train-1a2b3c4d-s0.pt")
model.embed("one.mp4")                          # (T, E), an embedding a frame
alignment = model.align("one.mp4", "other.mp4")
alignment.time_in_b(12.5)                       # the same moment in the other video, or None
alignment.gaps                                  # what either has alone
"""

from lacray.apply.alignment import Alignment, Gap
from lacray.apply.calibration import Calibration
from lacray.apply.embedded import EmbeddedVideo, NoClockError
from lacray.apply.model import Model, load
from lacray.apply.scoring import Measure
from lacray.odds import Penalties

__all__ = [
    "Alignment",
    "Calibration",
    "EmbeddedVideo",
    "Gap",
    "Measure",
    "Model",
    "NoClockError",
    "Penalties",
    "load",
]
