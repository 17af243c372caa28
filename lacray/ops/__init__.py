"""Differentiable alignment. Needs torch only."""

from lacray.ops.affine import soft_nw, soft_sw
from lacray.ops.alignments import dtw_path, expected_alignment, needleman_wunsch, smith_waterman
from lacray.ops.backends import backend_name, backend_note, require_native
from lacray.ops.library import BuildError
from lacray.ops.warping import smooth_dtw, soft_dtw

__all__ = [
    "BuildError",
    "backend_name",
    "backend_note",
    "dtw_path",
    "expected_alignment",
    "needleman_wunsch",
    "require_native",
    "smith_waterman",
    "smooth_dtw",
    "soft_dtw",
    "soft_nw",
    "soft_sw",
]
