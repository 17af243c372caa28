"""What is told of studies of which little can be said."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from studies import opened

from lacray.config import UserError
from lacray.results import ResultsError, patience
from lacray.study.status import show_status, standing
from lacray.study.study import Options
from lacray.tune import parser, resumed, wanted_studies


@pytest.mark.parametrize("look", [standing, lambda results, name: resumed(Options(results), name)])
def test_who_waits_for_a_command_waits_for_a_server_that_is_away_for_seconds(monkeypatch, look):
    """It was five minutes, without a word."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key-of-nobody")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ResultsError, match=r"\(tried for 10 s\); check AWS_ENDPOINT_URL and the network"):
        look("s3://bucket/results", "s")


def test_a_study_of_another_version_keeps_no_other_from_being_shown_and_going_on(tmp_path, clips, capsys):
    """Neither status nor --resume, without a name, did anything at all."""
    with opened(tmp_path, clips) as study:
        study.begin()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "study.json").write_text(json.dumps({"format": 0}))
    show_status(str(tmp_path), None)
    said = " ".join(capsys.readouterr().out.split())
    assert "study old: its study.json must have format" in said
    assert "study s: 0 of" in said
    resume = parser().parse_args(["--resume", "--results", str(tmp_path)])
    assert wanted_studies(resume) == [("s", None)]
    assert "study old" in capsys.readouterr().out
    with pytest.raises(UserError, match="must have format"):
        show_status(str(tmp_path), "old")
    (tmp_path / "s" / "study.json").unlink()
    with pytest.raises(UserError, match="must have format"):
        wanted_studies(resume)
