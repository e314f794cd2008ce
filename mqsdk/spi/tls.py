"""The one `tls:` block of a cluster, and the SSLContext that every client library is given."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mqsdk.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Tls:
    """ca: trusted certificates (None: the system's). cert, key: the client's own. verify: check the server's certificate and name."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True

    @classmethod
    def parse(cls, value: Any) -> Tls | None:
        """The block as an adapter gets it; None where there is none. Raises ValueError for what cannot be used."""
        if value is None:
            return None
        if not isinstance(value, Mapping) or not set(value) <= {"ca", "cert", "key", "verify"}:
            raise ValueError("a mapping with ca, cert, key and verify, all of them optional")
        given = {name: item for name, item in value.items() if item is not None}
        if any(not isinstance(item, bool if name == "verify" else str) for name, item in given.items()):
            raise ValueError("ca, cert and key are paths of files, verify is true or false")
        if ("key" in given) and ("cert" not in given):
            raise ValueError("a key needs the certificate that it belongs to")
        return cls(**given)

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer. Raises ConfigError naming the file that cannot be read or used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(name for name in (self.ca, self.cert, self.key) if name)
            raise ConfigError(
                f"the certificates cannot be used: {error.strerror or error}", where=files, fix="check the block `tls`"
            ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
