"""cluster.yaml and cluster.local.yaml as Ray reads them, and what is started on AWS: moto answers in AWS's place."""

from __future__ import annotations

import copy
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from autoscaler import started
from click import ClickException
from paths import ROOT

from lacray.nodes import Node, Plan, plan, with_startable

FILE = ROOT / "cluster.yaml"
FILES = ["cluster.yaml", "cluster.local.yaml", "cluster.kuberay.yaml"]


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def local() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.local.yaml").read_text())


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` does with a file before it calls AWS."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_file_and_refuses_typos_in_it(config):
    from jsonschema import ValidationError

    checked(config)
    for path in (["idle_timeout_minutes"], ["file_mounts"], ["available_node_types", "gpu", "max_workers"]):
        broken = copy.deepcopy(config)
        *folders, key = path
        inner = broken
        for folder in folders:
            inner = inner[folder]
        inner[key + "s"] = inner.pop(key)
        with pytest.raises(ValidationError, match=key + "s"):
            checked(broken)
    broken = copy.deepcopy(config)
    broken["head_node_type"] = "haed"
    # Ray's own defaulting looks the head up before its validation does.
    with pytest.raises((KeyError, ValueError)):
        checked(broken)


def test_the_cluster_shrinks_to_its_head_and_grows_in_spot_nodes_unless_told_otherwise(config):
    types = checked(config)["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"], "the head must not be taken away"
    assert head["resources"] == {"CPU": 0}, "trials must not run on the head"
    assert head["node_config"]["InstanceInitiatedShutdownBehavior"] == "terminate", "its disk would cost on"
    demand, spot = types.pop("demand"), types["gpu"]
    market = spot["node_config"]["InstanceMarketOptions"]
    assert {**demand["node_config"], "InstanceMarketOptions": market} == spot["node_config"]
    assert demand["max_workers"] == 0
    assert types
    for node in types.values():
        assert node["min_workers"] == 0
        assert 0 < node["max_workers"] <= config["max_workers"]
        assert node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert node["node_config"]["IamInstanceProfile"] == {"Name": "lacray-worker"}, "Ray gives workers no role"
    assert config["provider"]["cache_stopped_nodes"] is False, "spot nodes cannot be stopped"


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml"])
def test_every_node_demands_the_token_and_gets_it(name):
    prepared = checked(yaml.safe_load((ROOT / name).read_text()))
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for side in ("head", "worker"):
        started = [line for line in prepared[f"{side}_start_ray_commands"] if "ray start" in line]
        assert len(started) == 1
        assert "export RAY_AUTH_MODE=token" in started[0]
        assert "unset PYTHONDONTWRITEBYTECODE;" in started[0]
    [head] = [line for line in prepared["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in head
    assert "include-dashboard" not in head, "Train inside Tune asks the dashboard's State API"
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml"])
def test_the_commands_are_shell_and_name_modules_and_options_that_exist(name, capsys, monkeypatch):
    prepared = checked(yaml.safe_load((ROOT / name).read_text()))
    commands = [line for key in prepared if key.endswith("_commands") for line in prepared[key]]
    assert len(commands) > 7
    for line in commands:
        subprocess.run(["bash", "-n", "-c", line], check=True)
        for script in re.findall(r"~/lacray/(\w+\.sh)", line):
            subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
    assert (ROOT / "constraints.txt").is_file()
    builds = {line.partition("-m lacray.ops.build")[2] for line in commands if "lacray.ops.build" in line}
    assert builds == ({"", " --cuda"} if name == "cluster.yaml" else {""})
    module = "lacray.ops.build"
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(module).main()
    assert "--cuda" in capsys.readouterr().out


def test_a_machine_that_lost_its_disk_is_set_up_by_its_start_commands_alone(local):
    # All that Ray repeats there; cluster_lab.sh and test_cluster_lab.py do it for real.
    [setup] = local["setup_commands"]
    waits, *others = local["worker_start_ray_commands"]
    assert "~/.ray/auth_token" in waits
    assert others[0] == setup
    assert any("cluster_keeper.sh" in line for line in local["head_start_ray_commands"])


def test_ray_refuses_a_typo_in_the_file_of_machines_that_are_reached_by_ssh(local):
    from jsonschema import ValidationError

    assert checked(local)["available_node_types"]["local.cluster.node"]["min_workers"] == 2
    local["provider"]["worker_ip"] = local["provider"].pop("worker_ips")
    with pytest.raises((ValidationError, ClickException)):
        checked(local)


def test_a_study_is_planned_on_the_nodes_that_the_autoscaler_then_starts(filled):
    head = Node("head", 0)
    nodes = with_startable([head], filled)
    # Eight nodes of all types together: the two largest, and six others.
    assert nodes == [head, Node("gpu4", 48, 4, count=2), Node("gpu", 8, 1, count=6)]
    made = plan(nodes, workers=1, gpus_per_worker=1)
    assert made == Plan(14, 8, 1)
    assert started(filled, [{"CPU": made.cpus_per_worker, "GPU": 1}] * made.concurrent) == {"gpu4": 2, "gpu": 6}
    made = plan(nodes, workers=4, gpus_per_worker=1, concurrent=2)
    assert made == Plan(2, 12, 1)
    assert started(filled, [{"CPU": made.cpus_per_worker, "GPU": 1}] * 8) == {"gpu4": 2}


def test_on_demand_nodes_come_beside_spot_nodes_and_never_in_the_place_of_refused_ones(filled):
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    types = filled["available_node_types"]
    for name, most in (("gpu", 6), ("demand", 2), ("gpu4", 0)):
        types[name]["max_workers"] = most
    trials = [{"CPU": 8.0, "GPU": 1.0}]
    assert started(filled, trials * 3) == {"gpu": 3}
    assert started(filled, trials * 8) == {"gpu": 6, "demand": 2}
    # Were a refusal to count against a type, the file's remarks would be out of date.
    monitor = CloudResourceMonitor()
    monitor.notify([InstanceUpdateEvent(instance_type="gpu", new_instance_status=Instance.ALLOCATION_FAILED)])
    assert monitor.get_recoverable_resource_availabilities() == {}


@pytest.mark.parametrize("name", [*FILES, "docs/cluster.md"])
def test_every_command_that_is_shown_is_one_that_there_is(name):
    from lacray import train, tune

    text = (ROOT / name).read_text().replace("\\\n", " ").replace("\n#  ", "\n")
    shown = re.findall(r"python -m lacray\.(tune|train)\b([^'#`\n]*)", text)
    assert shown
    for module, words in shown:
        {"tune": tune, "train": train}[module].parser().parse_intermixed_args(shlex.split(words))
    for file in re.findall(r"\bcluster[.\w]*\.(?:yaml|sh)\b", text):
        assert file == "my-cluster.yaml" or (ROOT / file).is_file(), file


# What AWS and others call secret; a person's folder; an account's number.
FORBIDDEN = {
    "an AWS key id": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a long random string": r"(?<![\w/.-])(?=[A-Za-z0-9+/]*\d)(?=[A-Za-z0-9+/]*[A-Za-z])[A-Za-z0-9+]{32,}={0,2}",
    "a private key": r"BEGIN [A-Z ]*PRIVATE KEY",
    "a named secret": r"(?i)(?!secretRef: \{name)(secret|password|passwd|access_?key|api_?key)\w*\s*[:=]\s*\S",
    "a token's value": r"(?i)(?<!RAY_AUTH_MODE=)\btoken\s*[:=]\s*[^\s~/]",
    "a personal path": r"/(home|Users|root|mnt|work)/\S+|[A-Z]:\\",
    "an account number": r"(?<!\d)\d{12}(?!\d)",
    "a bucket or mail address": r"s3://(?!YOUR-BUCKET)|[\w.]+@[\w.]+\.\w+",
}
LEAKS = {
    "an AWS key id": "key: AKIAIOSFODNN7EXAMPLE",
    "a long random string": "export X=" + "a1B2" * 16,
    "a private key": "-----BEGIN RSA PRIVATE KEY-----",
    "a named secret": "aws_secret_access_key: abc",
    "a token's value": "RAY_AUTH_TOKEN=1 token: 5f2",
    "a personal path": "~/lacray: /home/someone/lacray",
    "an account number": "arn:aws:iam::123456789012:role/x",
    "a bucket or mail address": "--results s3://my-company/lacray",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_file_holds_nothing_that_is_secret_or_personal(what, name):
    assert re.search(FORBIDDEN[what], LEAKS[what]), "the pattern would not find what it is for"
    found = re.search(FORBIDDEN[what], (ROOT / name).read_text())
    assert found is None, f"{what}: {found.group()}"


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AWS as moto plays it, with a home of its own, for Ray writes the new SSH key to ~/.ssh."""
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    moto = pytest.importorskip("moto", minversion="5.2.5")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    from ray.autoscaler._private.aws import config as aws_config
    from ray.autoscaler._private.aws import utils

    # Ray waits 15 s for AWS to spread a new role, twice.
    monkeypatch.setattr(aws_config, "time", SimpleNamespace(sleep=lambda _: None))
    with moto.mock_aws():
        utils.resource_cache.cache_clear()
        utils.client_cache.cache_clear()
        yield
    utils.resource_cache.cache_clear()
    utils.client_cache.cache_clear()


@pytest.fixture
def filled(config: dict[str, Any], aws: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """cluster.yaml as it reaches the head: CPUs and GPUs as AWS has them for each instance type."""
    import boto3
    from ray.autoscaler._private.aws import node_provider

    # Ray asks for all of the region's instance types, for which moto takes half a minute; this asks for ours.
    ours = {node["node_config"]["InstanceType"] for node in config["available_node_types"].values()}
    ec2 = boto3.client("ec2", config["provider"]["region"])
    known = ec2.describe_instance_types(InstanceTypes=sorted(ours))["InstanceTypes"]
    monkeypatch.setattr(node_provider, "list_ec2_instances", lambda *_: known)
    return node_provider.AWSNodeProvider.fillout_available_node_types_resources(checked(config))


def test_aws_gets_a_role_a_key_a_firewall_an_on_demand_head_and_spot_workers(config, filled, tmp_path):
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    region = config["provider"]["region"]
    iam, ec2 = boto3.client("iam", region), boto3.client("ec2", region)
    iam.create_role(RoleName="lacray-worker", AssumeRolePolicyDocument="{}")  # as the file's first lines tell the user
    iam.create_instance_profile(InstanceProfileName="lacray-worker")
    iam.add_role_to_instance_profile(InstanceProfileName="lacray-worker", RoleName="lacray-worker")

    ready = bootstrap_aws(filled)

    policies = iam.list_attached_role_policies(RoleName="ray-autoscaler-v1")["AttachedPolicies"]
    assert {policy["PolicyName"] for policy in policies} == {"AmazonEC2FullAccess", "AmazonS3FullAccess"}
    [key] = ec2.describe_key_pairs()["KeyPairs"]
    assert key["KeyName"] == f"ray-autoscaler_{region}"
    assert (tmp_path / ".ssh" / f"{key['KeyName']}.pem").stat().st_mode & 0o077 == 0
    [group] = [g for g in ec2.describe_security_groups()["SecurityGroups"] if "lacray" in g["GroupName"]]
    open_to_all = [p for p in group["IpPermissions"] if any(r["CidrIp"] == "0.0.0.0/0" for r in p["IpRanges"])]
    assert [p.get("FromPort") for p in open_to_all] == [22], "the world may knock at SSH alone"

    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    for name, kind, count in (("head", NODE_KIND_HEAD, 1), ("gpu", NODE_KIND_WORKER, 3), ("gpu4", NODE_KIND_WORKER, 2)):
        node = copy.deepcopy(ready["available_node_types"][name]["node_config"])
        if name == "head":
            node.update(ready["head_node"])
        for _ in range(count):  # moto starts no more than one a call
            provider.create_node(node, {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name}, 1)

    def nodes(name: str) -> list[dict[str, Any]]:
        found = ec2.describe_instances(
            Filters=[
                {"Name": f"tag:{TAG_RAY_USER_NODE_TYPE}", "Values": [name]},
                {"Name": "instance-state-name", "Values": ["pending", "running"]},
            ]
        )
        return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]

    [head] = nodes("head")
    assert head.get("InstanceLifecycle") != "spot"
    assert head["IamInstanceProfile"]["Arn"].endswith("/ray-autoscaler-v1")
    for name, count in (("gpu", 3), ("gpu4", 2)):
        workers = nodes(name)
        assert len(workers) == count
        for worker in workers:
            assert worker["InstanceLifecycle"] == "spot"
            assert worker["InstanceType"] == config["available_node_types"][name]["node_config"]["InstanceType"]
            assert worker["IamInstanceProfile"]["Arn"].endswith("/lacray-worker")
            assert worker["KeyName"] == key["KeyName"]

    provider.terminate_nodes(provider.non_terminated_nodes({}))
    assert [nodes(name) for name in ("head", "gpu", "gpu4")] == [[], [], []]
