"""What the nodes of a cluster can hold: a worker must fit on one node, whatever all of them have together."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from lacray.config import UserError
from lacray.results.address import is_local, local_path

NODE_SEES_WITHIN_S = 5.0
"""A network file system may take a moment to show another machine's new file."""
NODE_ANSWERS_WITHIN_S = 120.0
"""Ray starts a process for the first task on a node, and that one imports lacray."""


@dataclass(frozen=True)
class Node:
    """A node, or a type of nodes that the autoscaler can start."""

    name: str
    cpus: float
    gpus: float = 0.0
    count: int = 1
    """How many of them there are, or can be."""


@dataclass(frozen=True)
class Plan:
    """What each worker gets, and how many trials go on at once."""

    concurrent: int
    cpus_per_worker: int
    gpus_per_worker: float


def plan(
    nodes: Sequence[Node],
    *,
    workers: int,
    gpus_per_worker: float,
    concurrent: int | None = None,
    most: int | None = None,
) -> Plan:
    """Share out the nodes.

    Args:
        nodes: of `read_nodes`.
        workers: ranks of one trial; they may lie on different nodes.
        gpus_per_worker: of each; 0.5 for two on one GPU.
        concurrent: trials at once, as asked for; None: as many as fit.
        most: trials that there are.

    Returns:
        Cores that would stand idle are shared out, counted node by node.

    Raises:
        UserError: not one trial fits; Ray would wait for ever.
    """
    if gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker):
        raise UserError(
            f"--gpus-per-worker: must be a whole number or below 1, got {gpus_per_worker:g}; Ray shares out no GPU "
            "beside a whole one"
        )
    room = num_workers(nodes, 1, gpus_per_worker)
    if room < workers:
        raise UserError(_why_not(nodes, workers, gpus_per_worker, room))
    slots = room // workers
    chosen = min(concurrent or slots, slots, most or slots)
    cpus = 1
    while num_workers(nodes, cpus + 1, gpus_per_worker) >= chosen * workers:
        cpus += 1
    return Plan(chosen, cpus, gpus_per_worker)


def num_workers(nodes: Sequence[Node], cpus: int, gpus: float) -> int:
    """Workers of a size that fit on the nodes at once."""
    found = 0
    for node in nodes:
        fit = int(node.cpus // cpus)
        if gpus:
            # Parts of a GPU do not add up over two of them.
            by_gpu = int(node.gpus // gpus) if gpus >= 1 else int(node.gpus) * int(1 / gpus + 1e-9)
            fit = min(fit, by_gpu)
        found += fit * node.count
    return found


def most_workers(nodes: Sequence[Node], gpus_per_worker: float, num_pairs: int) -> int:
    """Ranks for one training that takes all GPUs that its batch can be split over.

    Args:
        num_pairs: of one pass forwards: `data.batch_size` over `fit.accumulate`.
    """
    room = max(1, num_workers(nodes, 1, gpus_per_worker))
    return max((count for count in range(1, min(room, num_pairs) + 1) if num_pairs % count == 0), default=1)


def default_gpus(nodes: Sequence[Node]) -> float:
    """GPUs per worker where nobody says: one where there is one."""
    return 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0


def _why_not(nodes: Sequence[Node], workers: int, gpus: float, room: int) -> str:
    """What was asked for, what the largest node has, and which flag to lower."""
    by_gpu = bool(gpus) and num_workers(nodes, 1, 0) >= workers
    flag, remedy = ("--gpus-per-worker", "lower it (0 trains on CPUs)") if by_gpu else ("--workers", "lower it")
    if workers == 1 and not by_gpu:
        remedy = "give a node CPUs"
    each = "1 CPU" + (f" and {_counted(gpus, 'GPU')}" if gpus else "")
    usable = [node for node in nodes if node.count]
    largest = max(usable, key=lambda node: (bool(gpus) * node.gpus, node.cpus, node.gpus), default=None)
    has = (
        f"{largest.name} with {_counted(largest.cpus, 'CPU')} and {_counted(largest.gpus, 'GPU')}"
        if largest
        else "none"
    )
    return (
        f"{flag}: a trial needs {_counted(workers, 'worker')} of {each} each, every one on one node, and the nodes "
        f"have room for {room}; the largest node is {has}; {remedy}, or add nodes"
    )


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}{'s' * (number != 1)}"


def read_nodes() -> list[Node]:
    """The nodes that Ray has, then those that its autoscaler may still start."""
    return with_startable(_nodes_there(), autoscaler_config())


def _nodes_there() -> list[Node]:
    import ray

    return [
        Node(node["NodeManagerHostname"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def with_startable(there: Sequence[Node], config: dict[str, Any] | None) -> list[Node]:
    """The nodes that are there, and the types that an autoscaler's configuration lets it start beside them.

    Args:
        there: one entry a node, the head among them.
        config: as Ray's autoscaler reads it, resources filled in; None where there is no autoscaler.
    """
    if config is None:
        return list(there)
    types = [
        Node(name, kind["resources"].get("CPU", 0), kind["resources"].get("GPU", 0), kind.get("max_workers", 0))
        for name, kind in config["available_node_types"].items()
        # Machines that are reached by ssh have no resources before they are there.
        if name != config["head_node_type"] and kind.get("resources")
    ]
    # The largest first, as the autoscaler itself chooses where several types fit.
    types.sort(key=lambda node: (node.gpus, node.cpus), reverse=True)
    started = [(node.cpus, node.gpus) for node in there]
    left = config["max_workers"] - (len(there) - 1)
    found = list(there)
    for kind in types:
        own = [size for size in started if size == (kind.cpus, kind.gpus)][: kind.count]
        for size in own:
            started.remove(size)
        count = min(kind.count - len(own), max(left, 0))
        left -= count
        if count:
            found.append(replace(kind, count=count))
    return found


def autoscaler_config() -> dict[str, Any] | None:
    """What the cluster's autoscaler reads; None where there is none, or its machine is another."""
    name, namespace = os.environ.get("RAY_CLUSTER_NAME"), os.environ.get("RAY_CLUSTER_NAMESPACE")
    return _kubernetes_config(name, namespace) if name and namespace else _file_config()


def _file_config() -> dict[str, Any] | None:
    """`ray up` hands the head a file, and the autoscaler its name. Ray itself keeps the node types nowhere else."""
    import ray

    address = ray.get_runtime_context().gcs_address
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if options.get("--gcs-address") == address and "--autoscaling-config" in options:
            loaded = yaml.safe_load(Path(options["--autoscaling-config"]).expanduser().read_text())
            return loaded if isinstance(loaded, dict) else None
    return None


def _kubernetes_config(name: str, namespace: str) -> dict[str, Any] | None:
    """KubeRay keeps the node types in the RayCluster, which the head's service account may read."""
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    try:
        config: dict[str, Any] = AutoscalingConfigProducer(name, namespace)()
    except Exception:
        # Kubernetes does not answer, or not to this account: the nodes that are there can be used all the same.
        return None
    return config


def check_shared(results: str) -> None:
    """That every node sees the results, where they lie in a directory.

    Raises:
        UserError: names the nodes that do not, or could not be asked.
    """
    import ray

    if not is_local(results):
        return
    here = ray.get_runtime_context().get_node_id()
    others = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node["Resources"].get("CPU", 0) >= 1
    ]
    remedy = "give a folder that all nodes share, or s3://bucket/prefix"
    if not others:
        there = _nodes_there()
        startable = with_startable(there, autoscaler_config())[len(there) :]
        if startable:
            raise UserError(
                f"--results: must be one place for all nodes, and those that are still to be started "
                f"({', '.join(node.name for node in startable)}) cannot be asked whether they see {results}; give "
                "s3://bucket/prefix, or start a node that shares the folder first (min_workers: 1)"
            )
        return
    blind = _blind(others, Path(local_path(results)))
    if blind:
        raise UserError(f"--results: must be one place for all nodes, got {results}: {'; '.join(blind)}; {remedy}")


def _blind(nodes: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """Of Ray's nodes, those that do not see a new file in a folder, and why."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    word = uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{word}.tmp"
    probe.write_text(word)
    found = []
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(_sees)
        pending = [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(probe), word
            )
            for node in nodes
        ]
        done, _ = ray.wait(pending, num_returns=len(pending), timeout=NODE_ANSWERS_WITHIN_S)
        for node, answer in zip(nodes, pending, strict=True):
            name = node["NodeManagerHostname"]
            if answer not in done:
                found.append(f"{name} did not answer in {NODE_ANSWERS_WITHIN_S:g} s")
                continue
            try:
                if not ray.get(answer):
                    found.append(f"{name} does not see it")
            except (
                ray.exceptions.NodeDiedError,
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.TaskUnschedulableError,
            ):
                # Lost meanwhile: it will not run a trial either.
                continue
            except ray.exceptions.RayError as error:
                found.append(f"{name} could not be asked ({str(error).strip().splitlines()[-1]})")
    finally:
        probe.unlink(missing_ok=True)
    return found


def _sees(path: str, word: str) -> bool:
    """Runs on a node: does it see the file with these contents?"""
    until = time.monotonic() + NODE_SEES_WITHIN_S
    while True:
        try:
            if Path(path).read_text() == word:
                return True
        except OSError:
            pass
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
