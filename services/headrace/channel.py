"""How gRPC channels to control are kept: a peer that is dead or stopped is noticed within 2 s."""

from __future__ import annotations

from typing import Final

STAMPS: Final = "headrace-stamps-bin"
"""Trailing metadata of a batch that failed at its replica: `headrace.v1.Stamps`, as far as it got."""
OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),  # without it a stopped peer keeps its connection for a minute (grpcio 1.85)
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),  # what to try again, and where, is decided by whoever holds the channel
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)
SERVER_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a port is an identity: two processes must never share one
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),  # the pings above must not count as abuse
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)
