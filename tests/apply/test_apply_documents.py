"""The code in docs/apply.md, run as it is printed."""

from __future__ import annotations

import re
import shutil

import numpy as np
from paths import ROOT

PAGE = (ROOT / "docs" / "apply.md").read_text()


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, videos_checkpoint, videos_root, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    shutil.copy(videos_checkpoint, tmp_path / "train.pt")
    for name, take in (("one", 2), ("other", 6)):
        shutil.copy(videos_root / "videos" / f"take{take}.mp4", tmp_path / f"{name}.mp4")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    found = names["alignment"]
    assert found.match.shape == (len(found.a_to_b), len(found.b_to_a))
    place = found.frame_in_b(10)
    assert found.time_in_b(0.4) == (None if place is None else found.b.time_of(place))
    assert np.isfinite(found.score)
    assert capsys.readouterr().out.count(" of ") == len(found.gaps)


def test_numbers_of_the_page_are_those_of_the_code():
    from lacray.apply import Penalties
    from lacray.apply.alignment import MOST_CELLS
    from lacray.apply.calibration import MOST_VIDEOS
    from lacray.apply.chance import PIECES

    own = Penalties()
    told = f"`gap_open` {own.gap_open:g}, `gap_extend` {own.gap_extend:g}, `gamma` {own.gamma:g}"
    for text in (told, f"at most {MOST_VIDEOS} of its videos", f"into {PIECES} pieces", "more than 2^24 cells"):
        assert " ".join(text.split()) in " ".join(PAGE.split())
    assert MOST_CELLS == 2**24
