"""What a process lets in, and how it shows itself to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from headrace.config.section import Section


class TlsSettings(Section):
    """Files of this process, for its ports and for its way to the others. All are read again when they change."""

    certificate: Path | None = None
    """PEM: this process's certificate, then whoever signed it. Set, with `key`: the gRPC ports speak TLS alone."""
    key: Path | None = None
    """PEM, without a passphrase."""
    authorities: Path | None = None
    """PEM: who signs the certificates that are believed, of callers and of servers. None = callers are asked for no
    certificate, and servers need one that this machine's authorities have signed."""
    require_client_certificate: bool = False
    """Callers without a certificate do not get past the handshake. False: their token may still identify them."""
    name: str = ""
    """The name in the certificates of the cluster's own processes, if they share one: expected of control and replicas
    instead of their addresses."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        if self.require_client_certificate and (self.certificate is None or self.authorities is None):
            raise ValueError("require_client_certificate needs certificate, key and authorities")
        return self


RESERVED: Final = {
    "local": "callers who are not known by anything",
    "anonymous": "callers who are not known by anything",
    "headrace": "the moves that an experiment makes by itself",
    "settings": "the moves that a file of settings asks for",
}
"""Names in the ledger that are no caller's: what is written there under them, nobody else can have done."""
Permission = Literal["infer", "outcome", "read", "gateway", "replica", "admin"]


class Quota(Section):
    """What one caller may ask of one gateway process. What is not said is not bounded.

    A caller who spends more is refused, at the door, until it is due again: `grpc-retry-pushback-ms` says when.
    """

    requests_per_second: float | None = Field(None, gt=0)
    rows_per_second: float | None = Field(None, gt=0)
    """Rows are known once a request is read: they are paid for when it ends, and who is in debt by then waits."""
    tokens_per_second: float | None = Field(None, gt=0)
    """Events, which is what a batch costs; paid for like rows."""
    burst_s: float = Field(1.0, gt=0, le=3600)
    """Seconds' worth of each of these that a caller who has asked nothing for a while may spend at once; one request in
    any case. Raise it for callers who come in batches."""
    max_in_flight: int | None = Field(None, ge=1)
    """Requests at a time, from their first fields to their status."""


class Caller(Section):
    """Somebody who is known by a certificate or by a token. Several entries may have one name: old and new token."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}$")
    """As logs and experiments will say it."""
    certificate: str = ""
    """A name in the caller's certificate: with `://` in it a URI among the alternative names, after `cn:` the common
    name, else a DNS name among the alternative names; one kind never stands for another. `*` stands for any characters,
    dots and slashes too, and nothing else is special. Empty = not known by a certificate."""
    token_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", repr=False)
    """SHA-256 of the token the caller bears, in hexadecimal: the token itself stands nowhere in the settings. Take 32
    random bytes, a word that can be guessed is found from its hash. Empty = not known by a token."""
    may: tuple[Permission, ...] = Field(min_length=1)
    """What it may do; the table is in docs/operations.md. `gateway`, `replica` and `admin` may `read` as well."""
    models: tuple[str, ...] = ()
    """Of a `replica`: the models that it may register. Empty = all."""
    infer_models: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    """Of who may `infer`: the models that it may ask, by name; `*` stands for any characters, nothing else is special.
    Empty = all. What a gateway tells of models it tells such a caller of these alone, unless it may `read`."""
    quota: Quota | None = None
    """Of who may `infer`. None = `access.quota`. Entries of one name are one caller: they must say the same."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.certificate and not self.token_sha256:
            raise ValueError(f"caller '{self.name}' has neither certificate nor token_sha256")
        if self.models and "replica" not in self.may:
            raise ValueError(
                f"caller '{self.name}' has models and may not 'replica': they limit what that may register"
            )
        for field in ("infer_models", "quota"):
            if getattr(self, field) and "infer" not in self.may:
                raise ValueError(f"caller '{self.name}' has {field} and may not 'infer'")
        if self.name in RESERVED:
            raise ValueError(f"'{self.name}' is the name of {RESERVED[self.name]}")
        return self


class AccessSettings(Section):
    """Who may do what, on the ports of gateway, control and replicas alike."""

    mode: Literal["auto", "open", "closed"] = "auto"
    """`auto`: callers on this machine may do everything, others must be known. `closed`: everybody must be known; for
    machines that others use too, and behind a proxy, whose callers all look local. `open`: everybody may do all."""
    callers: tuple[Caller, ...] = ()
    quota: Quota | None = None
    """Of each caller who has none of its own; all who are `local`, or `anonymous`, are one. None = no bound."""
    metadata: Literal["open", "known"] = "open"
    """Who is told which models a gateway has (ModelReady, ModelMetadata, ModelConfig, ModelStatistics,
    RepositoryIndex) and reads TraceSetting and LogSettings: anybody, as Triton's clients expect, or only `callers`. Say
    `known` where `infer_models` shall hide models: whoever bears no token is asked for one."""
    token_file: Path | None = None
    """The token this process bears to the others, which know it by `token_sha256`. Not needed where its certificate is
    known, nor under `headrace serve`, which makes one for its own processes."""

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if self.mode == "closed" and not self.callers:
            raise ValueError("mode 'closed' without callers: nobody could ask anything")
        return self

    @model_validator(mode="after")
    def _alike(self) -> Self:
        quotas: dict[str, Quota | None] = {}
        for caller in self.callers:
            if "infer" in caller.may and quotas.setdefault(caller.name, caller.quota) != caller.quota:
                raise ValueError(f"the entries of caller '{caller.name}' have quotas that differ: they are one caller")
        return self
