"""The data sets of the published tables: how many videos and phases each action has when nothing is missing.

Sources: CARL's `datasets/dataset_splits.py`, whose files the LAC release trains on. TCC lists other numbers for
bench_press, bowl, pushup, pullup, squat and tennis_serve. Penn Action: Zhang et al. 2013; its phases: Dwibedi et al.
2019 (TCC).
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One action of a published data set."""

    action: str
    num_train: int
    num_val: int
    num_phases: int


POURING = Published("pouring", 70, 14, 5)

# In the order in which CARL's and LAC's pickles number them.
PENN_ACTION = (
    Published("baseball_pitch", 103, 63, 4),
    Published("baseball_swing", 113, 57, 3),
    Published("bench_press", 69, 71, 2),
    Published("bowl", 134, 85, 3),
    Published("clean_and_jerk", 40, 42, 6),
    Published("golf_swing", 87, 77, 3),
    Published("jumping_jacks", 56, 56, 4),
    Published("pushup", 102, 106, 2),
    Published("pullup", 98, 101, 2),
    Published("situp", 50, 50, 2),
    Published("squat", 111, 115, 4),
    Published("tennis_forehand", 79, 74, 3),
    Published("tennis_serve", 98, 69, 4),
)
PENN_ACTIONS = tuple(action.action for action in PENN_ACTION)

WITHOUT_PHASES = ("jump_rope", "strum_guitar")
"""Actions of Penn Action that nobody has labelled, and that no table counts."""

ALSO_CALLED = {"bowling": "bowl", "pushups": "pushup", "pullups": "pullup", "situps": "situp", "squats": "squat"}
"""Names that TCC, LAV and others give to actions of Penn Action, whatever separates their words."""
_BY_LETTERS = {name.replace("_", ""): name for name in (POURING.action, *PENN_ACTIONS, *WITHOUT_PHASES)} | ALSO_CALLED


def action_name(text: str) -> str:
    """An action of the published data sets by the name that it has here; any other text as it is."""
    letters = "".join(sign for sign in text.lower() if sign not in " _-")
    return _BY_LETTERS.get(letters, text.strip())
