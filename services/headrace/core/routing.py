"""Which version of a model answers. Pure; the gateway asks, control's policy decides."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.errors import InvalidInference


def primary(wanted: str, ready: Iterable[str]) -> str | None:
    """The version that answers: the one the policy names, else the highest that is ready; None = there is none.

    A policy that names a version which is not ready gets it all the same: answering with another model than
    the one in charge would be a silent change of decisions.
    """
    if wanted:
        return wanted
    return max(ready, key=int, default=None)


def parse_version(text: str) -> str:
    """The canonical form of a version in a request: "" = whichever the policy names, else an integer > 0.

    Raises: InvalidInference with Triton's sentence.
    """
    if not text:
        return ""
    if not text.isascii() or not text.isdigit():
        raise InvalidInference(
            f"failed to get model version from specified version string '{text}', "
            "version should be an integer value > 0"
        )
    return str(int(text))
