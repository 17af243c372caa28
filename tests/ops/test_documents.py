"""The code in docs/operators.md, run as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operators.md").read_text()


def test_the_picture_is_what_the_code_draws(capsys: pytest.CaptureFixture[str]) -> None:
    first, drawing = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    picture = re.search(r"^```\n\n((?: {8}.*\n)+)", PAGE[PAGE.index(drawing) :], re.MULTILINE)
    assert picture is not None
    exec(drawing, {})
    drawn = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    printed = [line.rstrip().removeprefix("    ") for line in picture[1].splitlines()]
    assert [line.removeprefix(" " * 4) for line in drawn] == [line.removeprefix(" " * 4) for line in printed]
    known = {"similarity": torch.zeros(1, 2, 3), "gap_open": 1.0, "gap_extend": 0.5}
    exec(first, known)
    assert known["match"].shape == (1, 2, 3)
