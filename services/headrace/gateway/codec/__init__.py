"""Open Inference Protocol ⇄ core. The protocol's messages end here: nothing behind this folder has seen one.

`decoding` in, `encoding` out, once each per request. What most requests are is done in one pass, which only says no.
What is wrong with the others, and what is rare: `complaints`, `contents`, `strings`, `selection`, `classification`.
"""

from headrace.gateway.codec.decoding import Decoder
from headrace.gateway.codec.encoding import encode
from headrace.gateway.codec.parameters import NOTHING, Asked, asked

__all__ = ["NOTHING", "Asked", "Decoder", "asked", "encode"]
