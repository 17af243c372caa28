"""What a cluster's nodes can hold, from arithmetic to Ray itself."""

from __future__ import annotations

import contextlib
import copy
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.cluster_utils import Cluster

from lacray import nodes as nodes_module
from lacray.config import UserError
from lacray.nodes import Node, Plan, check_shared, default_gpus, most_workers, plan, read_nodes, with_startable

TWO = [Node("a", 4), Node("b", 4)]
# As the shipped cluster.yaml has them once `ray up` has looked the instance types up.
AUTOSCALER: dict[str, Any] = {
    "head_node_type": "head",
    "max_workers": 8,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 8},
        "gpu4": {"resources": {"CPU": 48, "GPU": 4}, "max_workers": 2},
    },
}
HEAD = Node("head", 0)


def test_idle_cores_are_shared_out_node_by_node_and_never_from_the_sum():
    assert plan(TWO, workers=1, gpus_per_worker=0, concurrent=1) == Plan(1, 4, 0)  # not 8: no node has them
    assert plan(TWO, workers=3, gpus_per_worker=0, concurrent=1) == Plan(1, 2, 0)
    assert plan(TWO, workers=1, gpus_per_worker=0) == Plan(8, 1, 0)
    assert plan(TWO, workers=1, gpus_per_worker=0, most=3) == Plan(3, 2, 0)
    assert plan([Node("a", 7), Node("b", 2)], workers=2, gpus_per_worker=0, concurrent=1) == Plan(1, 3, 0)


def test_ranks_of_a_trial_may_lie_on_different_nodes():
    assert plan([Node(name, 1) for name in "abc"], workers=3, gpus_per_worker=0) == Plan(1, 1, 0)


def test_more_trials_at_once_than_fit_are_not_started():
    assert plan(TWO, workers=4, gpus_per_worker=0, concurrent=9).concurrent == 2


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [(0.5, Plan(8, 2, 0.5)), (0.4, Plan(8, 2, 0.4)), (0.3, Plan(12, 1, 0.3)), (1, Plan(4, 4, 1)), (2, Plan(2, 8, 2))],
)
def test_parts_of_a_gpu_do_not_add_up_over_gpus(gpus, expected):
    assert plan([Node("a", 16, gpus=4)], workers=1, gpus_per_worker=gpus) == expected


def test_few_cores_bound_what_many_gpus_could_do():
    assert plan([Node("a", 2, gpus=8)], workers=1, gpus_per_worker=1) == Plan(2, 1, 1)


def test_a_node_without_a_gpu_takes_no_worker_that_needs_one():
    nodes = [Node("big", 64), Node("gpu", 4, gpus=1)]
    assert default_gpus(nodes) == 1
    assert plan(nodes, workers=1, gpus_per_worker=default_gpus(nodes)) == Plan(1, 4, 1)
    assert default_gpus(TWO) == 0


def placed(nodes: list[Node], cpus: int, gpus: int) -> int:
    """Workers put down one by one, each on the first node that still has room."""
    free = [[node.cpus, node.gpus] for node in nodes for _ in range(node.count)]
    count = 0
    while True:
        for node in free:
            if node[0] >= cpus and node[1] >= gpus:
                node[0] -= cpus
                node[1] -= gpus
                count += 1
                break
        else:
            return count


@settings(deadline=None)
@given(
    st.lists(
        st.builds(Node, st.just("n"), st.integers(0, 9), st.integers(0, 3), count=st.integers(1, 3)),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 4),
    st.integers(0, 2),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_what_is_planned_fits_and_one_core_more_would_not(nodes, workers, gpus, concurrent):
    try:
        made = plan(nodes, workers=workers, gpus_per_worker=gpus, concurrent=concurrent)
    except UserError:
        assert placed(nodes, 1, gpus) < workers
        return
    needed = made.concurrent * workers
    assert placed(nodes, made.cpus_per_worker, gpus) >= needed
    assert placed(nodes, made.cpus_per_worker + 1, gpus) < needed
    if concurrent is None:
        assert placed(nodes, 1, gpus) < needed + workers, "another trial would have fitted"


@pytest.mark.parametrize(
    ("nodes", "asked", "said"),
    [
        (TWO, {"workers": 9, "gpus_per_worker": 0}, ["--workers", "9 workers", "room for 8", "a with 4 CPUs"]),
        (TWO, {"workers": 1, "gpus_per_worker": 1}, ["--gpus-per-worker", "1 GPU each", "0 trains on CPUs"]),
        ([HEAD], {"workers": 1, "gpus_per_worker": 0}, ["--workers", "head with 0 CPUs", "add nodes"]),
        ([], {"workers": 1, "gpus_per_worker": 0}, ["the largest node is none"]),
        ([Node("a", 9, 1), Node("b", 8, 2)], {"workers": 1, "gpus_per_worker": 3}, ["b with 8 CPUs and 2 GPUs"]),
        ([Node("a", 8, 4)], {"workers": 1, "gpus_per_worker": 1.5}, ["must be a whole number or below 1", "1.5"]),
    ],
)
def test_what_fits_nowhere_is_refused_with_what_the_largest_node_has(nodes, asked, said):
    with pytest.raises(UserError) as error:
        plan(nodes, **asked)
    assert all(words in str(error.value) for words in said), str(error.value)


def test_one_training_takes_all_gpus_that_its_batch_can_be_split_over():
    nodes = [Node("a", 8, gpus=3)]
    assert most_workers(nodes, 1, 8) == 2
    assert most_workers(nodes, 1, 9) == 3
    assert most_workers([Node("a", 64, gpus=16)], 1, 4) == 4
    assert most_workers([Node("a", 64, gpus=16)], 1, 0) == 1


@pytest.mark.parametrize(("address", "is_asked"), [("{}", True), ("file://{}", True), ("s3://bucket/x", False)])
def test_every_node_is_asked_for_a_folder_however_it_is_written(monkeypatch, tmp_path, address, is_asked):
    """A home folder of each node's own took the trials of that node."""
    there = [{"NodeID": name, "Alive": True, "Resources": {"CPU": 4}} for name in "ab"]
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a"))
    monkeypatch.setattr(ray, "nodes", lambda: there)
    asked: list[Path] = []
    monkeypatch.setattr(nodes_module, "_blind", lambda nodes, folder: asked.append(folder))
    check_shared(address.format(tmp_path))
    assert asked == [tmp_path] * is_asked


def test_a_cluster_of_a_head_alone_counts_the_nodes_that_it_may_start():
    nodes = with_startable([HEAD], AUTOSCALER)
    # Of 8 nodes in all, the 2 largest and 6 others.
    assert nodes == [HEAD, Node("gpu4", 48, 4, count=2), Node("gpu", 8, 1, count=6)]
    assert default_gpus(nodes) == 1
    assert plan(nodes, workers=1, gpus_per_worker=1) == Plan(14, 8, 1)
    assert plan(nodes, workers=1, gpus_per_worker=1, concurrent=8) == Plan(8, 12, 1)
    assert plan(nodes, workers=4, gpus_per_worker=1, concurrent=2) == Plan(2, 12, 1)
    with pytest.raises(UserError, match="gpu4 with 48 CPUs and 4 GPUs"):
        plan(nodes, workers=1, gpus_per_worker=8)


def test_nodes_that_were_started_are_not_counted_twice():
    there = [HEAD, Node("x", 8, 1), Node("y", 8, 1), Node("z", 48, 4)]
    nodes = with_startable(there, AUTOSCALER)
    assert nodes == [*there, Node("gpu4", 48, 4, count=1), Node("gpu", 8, 1, count=4)]
    assert plan(nodes, workers=1, gpus_per_worker=1).concurrent == 14


def test_the_autoscaler_of_ray_starts_the_nodes_that_are_counted():
    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for

    made = plan(with_startable([HEAD], AUTOSCALER), workers=1, gpus_per_worker=1)
    trials = [{"CPU": made.cpus_per_worker, "GPU": 1}] * made.concurrent
    scorer = partial(_default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({}))
    # The last argument but one is what may be started besides: 8 nodes of all types together.
    started, waiting = get_nodes_for(AUTOSCALER["available_node_types"], {}, "head", 8, trials, scorer)
    assert dict(started) == {"gpu4": 2, "gpu": 6}
    assert waiting == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head without CPUs, whose autoscaler, a real one, may start nodes."""
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": f"test-{uuid.uuid4().hex}",
        "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []},  # it starts nothing unasked
        "auth": {},
        "idle_timeout_minutes": 1,
        "upscaling_speed": 1,
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{name}_commands": [] for name in commands},
        **copy.deepcopy(AUTOSCALER),
    }
    for kind in config["available_node_types"].values():
        kind.update(node_config={}, min_workers=0)
    file = tmp_path / "autoscaler.yaml"
    file.write_text(yaml.safe_dump(config))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "autoscaling_config": str(file)})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_ray_tells_its_nodes_and_those_to_come_and_whether_they_see_the_results(cluster, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    assert [(node.name, node.count) for node in read_nodes()[1:]] == [("gpu4", 2), ("gpu", 6)]
    with pytest.raises(UserError, match=r"--results: .*still to be started \(gpu4, gpu\).*s3://"):
        check_shared(str(results))
    check_shared("s3://bucket/prefix")

    cluster.add_node(num_cpus=2)
    nodes = read_nodes()
    assert sorted(node.cpus for node in nodes[:2]) == [0, 2]
    assert [(node.name, node.count) for node in nodes[2:]] == [("gpu4", 2), ("gpu", 5)]
    check_shared(str(results))
    assert list(results.iterdir()) == []

    blind = pytest.raises(UserError, match=f"--results: .*{results}: .* does not see it; .*s3://")
    with blind_node(cluster, results), blind:
        check_shared(str(results))
    assert list(results.iterdir()) == []


@contextlib.contextmanager
def blind_node(cluster: Cluster, folder: Path) -> Iterator[None]:
    """A node that has an empty folder of its own in this one's place."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"]).returncode:
        pytest.skip("needs root and unshare for a node with another file system")
    program = shlex.quote(str(Path(sys.executable).with_name("ray")))
    command = (
        f"mount -t tmpfs tmpfs {shlex.quote(str(folder))} && exec {program} start --address={cluster.address} --block"
    )
    known = len(ray.nodes())
    process = subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", command + " --num-cpus=1 --disable-usage-stats"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 120
        while len(ray.nodes()) == known:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < until, "the node did not join"
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
