"""A Ray cluster as pods would make it, in a process of its own: a head without processors, a node for each group.

`python tests/cluster/nodes.py '{"headrace-cpu": 4}'` prints the head's address when all nodes are there, and ends with
them when its standard input does. The number is the group's processors.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster

PLACES = 1000
"""Of a group's resource on each of its pods, as the chart declares it."""
STORE_BYTES = 100 << 20


def main(groups: dict[str, int]) -> None:
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for place, processors in groups.items():
            cluster.add_node(num_cpus=processors, resources={place: PLACES}, object_store_memory=STORE_BYTES)
        print(cluster.address, flush=True)  # noqa: T201
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
