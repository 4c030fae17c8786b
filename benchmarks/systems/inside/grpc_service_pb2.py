"""Ray pickles a message by its class's module, and protoc gave tritonclient's this name, which nobody can import."""

from tritonclient.grpc.service_pb2 import *  # noqa: F403
