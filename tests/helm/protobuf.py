"""Reads the Secrets in which helm keeps its releases, as a client of Kubernetes sends them: protobuf in an envelope.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts (protobuf encoding); field numbers of
k8s.io/api/core/v1/generated.proto and k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

CONTENT_TYPE: Final = "application/vnd.kubernetes.protobuf"
MAGIC: Final = b"k8s\x00"
RAW: Final = 2
"""Of the envelope: the object."""
METADATA, DATA, TYPE = 1, 2, 3
NAME, NAMESPACE, LABELS, ANNOTATIONS = 1, 3, 11, 12


def secret(body: bytes) -> dict[str, Any]:
    """The object that a JSON client would have sent."""
    assert body.startswith(MAGIC), "not an object in Kubernetes' envelope"
    fields = _fields(_fields(body[len(MAGIC) :])[RAW][0])
    metadata = _fields(fields[METADATA][0])
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": metadata[NAME][0].decode(),
            "namespace": (metadata[NAMESPACE] or [b""])[0].decode(),
            "labels": {key: value.decode() for key, value in _map(metadata[LABELS])},
            "annotations": {key: value.decode() for key, value in _map(metadata[ANNOTATIONS])},
        },
        "type": (fields[TYPE] or [b"Opaque"])[0].decode(),
        "data": {key: base64.b64encode(value).decode() for key, value in _map(fields[DATA])},
    }


def _map(entries: list[bytes]) -> Iterator[tuple[str, bytes]]:
    for entry in entries:
        fields = _fields(entry)
        yield fields[1][0].decode(), (fields[2] or [b""])[0]


def _fields(data: bytes) -> defaultdict[int, list[bytes]]:
    """Field number → the bytes of each of its values; numbers are skipped, none is needed."""
    found: defaultdict[int, list[bytes]] = defaultdict(list)
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            _, at = _varint(data, at)
        else:
            assert tag & 7 == 2, "a Secret has varints and bytes only"
            length, at = _varint(data, at)
            found[tag >> 3].append(data[at : at + length])
            at += length
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
