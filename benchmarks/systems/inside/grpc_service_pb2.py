"""Ray pickles a message by its class's module, and protoc called tritonclient's by this name, which nobody can import."""

from tritonclient.grpc.service_pb2 import *  # noqa: F403
