"""What the nodes of a cluster can hold: a worker must fit on one node, whatever all of them have together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacray.config import UserError


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
    nodes: Sequence[Node], *, workers: int, gpus_per_worker: float, concurrent: int | None = None, most: int | None = None
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
    room = _num_workers(nodes, 1, gpus_per_worker)
    if room < workers:
        flag = "--gpus-per-worker" if gpus_per_worker and _num_workers(nodes, 1, 0) >= workers else "--workers"
        each = "1 CPU" + (f" and {gpus_per_worker:g} GPUs" if gpus_per_worker else "")
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus) if gpus_per_worker else (node.cpus, node.gpus), default=None)
        has = f"{largest.name} with {largest.cpus:g} CPUs and {largest.gpus:g} GPUs" if largest else "none"
        remedy = "lower it (0 trains on CPUs)" if flag == "--gpus-per-worker" else "lower --workers"
        raise UserError(
            f"{flag}: a trial needs {workers} workers of {each} each, every one on one node, and the nodes have room for "
            f"{room}; the largest node is {has}; {remedy}, or add nodes"
        )
    slots = room // workers
    chosen = min(concurrent or slots, slots, most or slots)
    cpus = 1
    while _num_workers(nodes, cpus + 1, gpus_per_worker) >= chosen * workers:
        cpus += 1
    return Plan(chosen, cpus, gpus_per_worker)


def most_workers(nodes: Sequence[Node], gpus_per_worker: float, batch_size: int) -> int:
    """Ranks for one training that takes all GPUs that its batch can be split over."""
    room = max(1, _num_workers(nodes, 1, gpus_per_worker))
    return max(count for count in range(1, room + 1) if batch_size % count == 0)


def default_gpus(nodes: Sequence[Node]) -> float:
    """GPUs per worker where nobody says: one where there is one."""
    return 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0


def _num_workers(nodes: Sequence[Node], cpus: int, gpus: float) -> int:
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


def read_nodes() -> list[Node]:
    """The nodes that Ray has, and those that its autoscaler may start in their place."""
    import ray

    there = [
        Node(node["NodeManagerHostname"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    types = _node_types()
    if not types:
        return there
    # The autoscaler's own account of what there can be includes what there is.
    head = [node for node in there if node.cpus == 0]
    return [*head, *types]


def _node_types() -> list[Node]:
    """What the autoscaler may start; nothing where there is none."""
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return []
    groups = config.node_group_configs
    limit = config.max_resources  # of all nodes together, where the cluster sets it
    found = [
        Node(group.name, group.resources.get("CPU", 0), group.resources.get("GPU", 0), max(group.max_count, 0))
        for group in groups
    ]
    return [node for node in found if node.count and (node.cpus or node.gpus)] if limit is not None else found


def check_shared(results: str) -> None:
    """That every node sees the results where they lie in a directory.

    Raises:
        UserError: names the nodes that do not.
    """
    import uuid

    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if "://" in results:
        return
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not others:
        return
    word = uuid.uuid4().hex
    probe = Path(results) / f".{word}.tmp"
    probe.write_text(word)
    try:
        look = ray.remote(num_cpus=0)(_sees)
        pending: dict[Any, str] = {}
        for node in others:
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            pending[look.options(scheduling_strategy=where).remote(str(probe), word)] = node["NodeManagerHostname"]
        blind = sorted({name for answer, name in pending.items() if not ray.get(answer)})
    finally:
        probe.unlink(missing_ok=True)
    if blind:
        raise UserError(
            f"--results: must be one place for all nodes, and {', '.join(blind)} does not see {results}; give a folder that all "
            "nodes share, or s3://bucket/prefix"
        )


def _sees(path: str, word: str) -> bool:
    try:
        return Path(path).read_text() == word
    except OSError:
        return False
