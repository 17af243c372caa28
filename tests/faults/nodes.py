"""A Ray cluster of two nodes of one CPU each on this machine; "lose" takes a node, "add" gives one."""

from __future__ import annotations

import os
import sys

# As a study has it that starts a Ray of its own; read once.
os.environ["RAY_AUTH_MODE"] = "token"

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "dashboard_host": "127.0.0.1"})
second = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "lose":
        cluster.remove_node(second, allow_graceful=False)
    else:
        cluster.add_node(num_cpus=1)
    print("done", flush=True)
cluster.shutdown()
