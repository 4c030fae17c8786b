"""What each fault may cost: how long a caller waits at most, and when the service is whole again by itself.

The table "Faults" of docs/operations.md repeats these figures; `tests/unit/test_fault_bounds.py` compares the two.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Bound(NamedTuple):
    """Seconds, each with room for a machine whose two cores everything shares, callers included."""

    test: str
    """The file and the function that hold it."""
    ended_s: float
    """Every call has ended by then, with an answer or a status."""
    whole_s: float
    """Every replica, gateway and control is there again and serves, counted from the fault, or from the moment on
    which its cause is gone where that is not the service's to mend."""


REPLICAS: Final = "tests/faults/test_replicas.py::"
GATEWAYS: Final = "tests/faults/test_gateways.py::"
CONTROL: Final = "tests/faults/test_control.py::"
RAY: Final = "tests/faults/test_ray.py::"
AROUND: Final = "tests/faults/test_surroundings.py::"
CONNECTIONS: Final = "tests/faults/test_connections.py::"

BOUNDS: Final = {
    "killed": Bound(REPLICAS + "test_a_replica_killed_in_the_middle_of_a_batch", 2.0, 40),
    "stopped": Bound(REPLICAS + "test_a_replica_stopped_in_the_middle_of_a_batch", 3.5, 60),
    "slow": Bound(REPLICAS + "test_a_slow_replica", 2.0, 5),
    "raises": Bound(REPLICAS + "test_rows_on_which_the_module_raises_or_answers_nan", 2.0, 2),
    "memory": Bound(REPLICAS + "test_a_device_without_memory_for_whole_batches", 2.0, 2),
    "sigterm": Bound(GATEWAYS + "test_a_gateway_that_is_told_to_end_under_load", 2.0, 15),
    "gateway killed": Bound(GATEWAYS + "test_one_of_two_gateways_killed", 2.0, 15),
    "control killed": Bound(CONTROL + "test_control_killed", 2.0, 15),
    "control away": Bound(CONTROL + "test_control_away_while_a_replica_is_lost", 2.0, 60),
    "control stopped": Bound(CONTROL + "test_control_stopped_without_a_word", 2.0, 15),
    "controller": Bound(RAY + "test_the_serve_controller_killed", 2.0, 60),
    "store": Bound(RAY + "test_a_model_store_that_cannot_be_read", 2.0, 90),
    "node": Bound(RAY + "test_a_node_lost", 3.5, 90),
    "cluster": Bound(RAY + "test_the_whole_ray_cluster_lost_and_back", 4.25, 10),
    "disk": Bound(AROUND + "test_a_full_disk_for_traces_and_ledger", 2.0, 20),
    "clock": Bound(AROUND + "test_clocks_that_step", 2.0, 2),
    "collector": Bound(AROUND + "test_a_collector_that_goes_silent_and_away", 2.0, 40),
    "unread": Bound(CONNECTIONS + "test_clients_that_ask_and_stop_reading", 3.0, 5),
    "half-open": Bound(CONNECTIONS + "test_packets_dropped_between_gateway_and_replica", 3.5, 10),
    "vanished": Bound(CONNECTIONS + "test_a_client_that_vanishes_without_a_word", 2.0, 75),
}
