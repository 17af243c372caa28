"""What is closed by default: ports, files from strangers, names that lead elsewhere, credentials in what is written."""

from __future__ import annotations

import pickle
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import psutil
import pytest
import torch
from commands import environment
from faults.lab import Lab, ended
from paths import ROOT
from s3_server import ACCESS_KEY, SECRET_KEY, s3_server
from tiny import make_features

from lacray.checkpoint import CheckpointError, load_model
from lacray.config import ConfigError, UserError
from lacray.results import Place, ResultsError, write_manifest
from lacray.study.manifest import FORMAT, space_of
from lacray.study.space import load_space


@pytest.mark.slow
def test_a_study_on_this_machine_listens_to_this_machine_alone_and_demands_a_token(tmp_path):
    lab = Lab(tmp_path / "lab", make_features(tmp_path / "clips"))
    study = lab.tune(trials=1, epochs=40, steps=60)
    with ended([study]):
        study.until(lambda: lab.epoch(0) >= 1)
        listening: dict[tuple[str, int], str] = {}
        for process in [psutil.Process(study.process.pid), *study.descendants()]:
            try:
                for connection in process.net_connections(kind="inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        listening[connection.laddr.ip, connection.laddr.port] = process.name()
            except psutil.NoSuchProcess:
                continue
        assert len(listening) >= 4, "Ray's processes were not found"
        open_ones = {where: who for where, who in listening.items() if not is_loopback(where[0])}
        assert not open_ones
        dashboards = [port for (_, port), who in listening.items() if 8265 <= port < 8300]
        assert dashboards
        for port in dashboards:
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/", timeout=20)
            assert refused.value.code in (401, 403)
        study.signal(2)
        study.wait(code=130, timeout=60)


def is_loopback(ip: str) -> bool:
    return ip in ("::1", "::ffff:127.0.0.1") or ip.startswith("127.")


class Bomb:
    """What a stranger's pickle could hold."""

    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 3, "encoder": Bomb()}, "zip.pt")
    Path("plain.pt").write_bytes(pickle.dumps({"format": 3, "encoder": Bomb()}))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="is no checkpoint of lacray"):
            load_model(tmp_path / name)
    assert not Path("harmed").exists()


def test_a_search_space_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harm = "!!python/object/apply:pathlib.Path.touch [!!python/object:pathlib.Path [harmed]]"
    Path("space.yaml").write_text(f"name: {harm}\n")
    with pytest.raises(ConfigError, match="is no YAML"):
        load_space("space.yaml")
    assert not Path("harmed").exists()


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "..", "a\x00b", "a\\..\\b"])
def test_no_name_in_a_file_leads_out_of_the_results(tmp_path, name):
    place = Place(str(tmp_path / "results"))
    space = {"name": name, "search": {"seed": {"type": "int", "low": 0, "high": 1}}}
    told = {"id": "one", "trials": 1, "metric": "objective", "seed": 0, "videos": {}, "versions": {}}
    manifest = {"format": FORMAT, "space": space, **told}
    assert write_manifest(place, "s", manifest)
    with pytest.raises(UserError, match="must be letters"):
        space_of(manifest, "s")
    for write in (place.write, place.create):
        with pytest.raises(ResultsError):
            write(f"s/rows/{name}.parquet", b"x")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["study.json"]


@pytest.mark.slow
def test_no_credential_is_in_anything_that_a_study_on_s3_writes_or_says(tmp_path):
    with s3_server(tmp_path / "server") as env:
        lab = Lab(tmp_path / "lab", make_features(tmp_path / "clips"), env=env, results="s3://secret-test/runs")
        said = lab.tune("--tensorboard", "board", trials=1, epochs=1).wait()
        wrong = {"AWS_SECRET_ACCESS_KEY": "not-the-secret-of-this-server"}
        said += lab.tune("--study", "other", trials=1, epochs=1, env=wrong).wait(code=2)
        report = subprocess.run(
            [sys.executable, str(ROOT / "analysis/report.py"), "--results", lab.results, "--out", "report"],
            cwd=lab.folder,
            env=environment(env),
            capture_output=True,
            check=True,
        )
        client = boto3.client(
            "s3",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="secret-test")["Contents"]]
        contents = {key: client.get_object(Bucket="secret-test", Key=key)["Body"].read() for key in keys}
    assert any(key.endswith(".parquet") for key in contents)
    contents |= {str(path): path.read_bytes() for path in lab.folder.rglob("*") if path.is_file()}
    contents |= {"said": said.encode(), "report said": report.stdout + report.stderr}
    for secret in (SECRET_KEY, ACCESS_KEY, "not-the-secret-of-this-server"):
        found = [name for name, content in contents.items() if secret.encode() in content]
        assert not found, secret
