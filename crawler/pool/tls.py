"""TLS contexts, built once per profile and shared by every client that asks for it.

Owns: the settings that make one context differ from another, and how many were built.
Does not own: handshakes (`channel`), or which domain gets which profile (settings).

Invariants: one context per profile, however many clients; none is built for a crawl that
never meets https; a context is never changed after it was built.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import NamedTuple

import certifi

from crawler.errors import SettingsError

__all__ = ["TlsContexts", "TlsProfile", "TlsStats"]


VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsProfile(NamedTuple):
    """What must be equal for two clients to share a context."""

    verify: bool = True
    """False: neither chain nor name is checked."""
    ca_file: str | None = None
    """PEM file of the trusted authorities; None: the Mozilla list that certifi ships."""
    client_cert: str | None = None
    """PEM file with a certificate to show and its key; None: none is shown."""
    minimum: str = "1.2"
    """Oldest version of TLS that is spoken: 1.2 or 1.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsStats:
    """Counters since the start."""

    built: int
    """Contexts made: at most one per profile."""
    asked: int
    """Times a context was handed out, built or shared."""


class TlsContexts:
    """Hands out the one context of each profile and kind of HTTP."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[TlsProfile, bool], ssl.SSLContext] = {}
        self._asked = 0

    def __repr__(self) -> str:
        return f"<TlsContexts {len(self._contexts)} built, {self._asked} asked>"

    def context(self, profile: TlsProfile, *, http2: bool = False) -> ssl.SSLContext:
        """The profile's context, built at its first use (about 15 ms).

        `http2`: HTTP/2 is offered beside HTTP/1.1 (RFC 7301). Raises SettingsError when a
        file cannot be read, and for a version that is none.
        """
        self._asked += 1
        context = self._contexts.get((profile, http2))
        if context is None:
            context = self._contexts[profile, http2] = _build(profile, http2=http2)
        return context

    def stats(self) -> TlsStats:
        """Counters since the start."""
        return TlsStats(built=len(self._contexts), asked=self._asked)


def _build(profile: TlsProfile, *, http2: bool) -> ssl.SSLContext:
    if profile.minimum not in VERSIONS:
        wanted = " or ".join(map(repr, VERSIONS))
        raise SettingsError(
            f"tls.minimum = {profile.minimum!r}: expected {wanted}", hint="-s tls.minimum=1.2"
        )
    try:
        context = ssl.create_default_context(cafile=profile.ca_file or certifi.where())
    except OSError as error:
        raise SettingsError(
            f"tls.ca_file {profile.ca_file!r} cannot be read: {error}",
            hint="name a PEM file with at least one certificate",
        ) from error
    if profile.client_cert is not None:
        _load_client_cert(context, profile.client_cert)
    context.minimum_version = VERSIONS[profile.minimum]
    if not profile.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    return context


def _load_client_cert(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_cert_chain(path, password="")
    except OSError as error:
        raise SettingsError(
            f"tls.client_cert {path!r} cannot be used: {error}",
            hint="name a PEM file with the certificate and its key, the key not encrypted",
        ) from error
