"""A Ray cluster of one node, in a process of its own: what is to run on it comes from outside, as an operator's does.

`python tests/cluster/node.py FOLDER '{"headrace-cpu": 1000}'` prints its address when it is there, and ends
with it when its standard input does. The mapping is what the node has beside processors.
"""

from __future__ import annotations

import json
import sys

import ray

PROCESSORS = 8
"""They are only counted."""
ATTEMPTS = 4
"""Ray gives the agents of a new node 15 s, and a machine that others use as well does not always keep them."""


def start(folder: str, resources: dict[str, float]) -> str:
    found = ray.init(
        address="local",
        num_cpus=PROCESSORS,
        resources=resources,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
    )
    return str(found.address_info["gcs_address"])


def main(folder: str, resources: dict[str, float]) -> None:
    for attempt in range(ATTEMPTS):
        try:
            print(start(f"{folder}/{attempt}", resources), flush=True)  # noqa: T201
            break
        except Exception as error:  # noqa: BLE001  Ray raises no narrower one
            print(error, file=sys.stderr)  # noqa: T201
            ray.shutdown()
    else:
        sys.exit("no node started")
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
