"""A Ray cluster of two nodes of one CPU each on this machine; "lose" takes a node, "add" gives one."""

from __future__ import annotations

import os
import sys

# As a study on a machine without a cluster has them; Ray reads them once.
os.environ.update(RAY_AUTH_MODE="token", RAY_health_check_period_ms="500")

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
