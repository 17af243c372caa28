"""One campaign for all tests that only look at it."""

from __future__ import annotations

import pytest
from campaign import campaign, reported


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    uri = tmp_path_factory.mktemp("results")
    campaign(uri)
    return uri


@pytest.fixture(scope="session")
def made(results):
    return reported(results)
