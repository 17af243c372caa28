"""What is told of a study whose results are away."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lacray.results import ResultsError, patience
from lacray.study.status import standing
from lacray.study.study import Options
from lacray.tune import resumed


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
