"""Configuration from HTTP(S): one GET, with the ETag of the last answer so that an unchanged one costs no transfer. Standard library."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage, HTTPResponse
from ipaddress import ip_address
from ssl import SSLCertVerificationError, create_default_context
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from mqsdk.config.origin import ANSWER_S, MAX_BYTES, YAML, Content, digest, down, refused, secrets_of, shown, too_large, untrusted

INSECURE = "http+insecure"
CHUNK = 64 * 1024
# "Request Timeout" and "Too Many Requests" pass by themselves as the 5xx do (RFC 9110, RFC 6585).
_PASSING = (408, 429)


class HttpSource:
    """One address. Redirects are not followed: a configuration comes from where it is said to come from, over the same encryption."""

    def __init__(self, address: SplitResult) -> None:
        self.name = shown(address)
        self._user = secrets_of(address)
        self._loopback = _is_loopback(address.hostname or "")
        if address.scheme == "http" and not self._loopback:
            fix = f"use https, or write {INSECURE}:// where everybody on the way may read and change it"
            raise refused(self.name, "is not encrypted, and not of this host", fix)
        secure = address.scheme == "https"
        bare = address._replace(scheme="https" if secure else "http", netloc=address.netloc.rpartition("@")[2], fragment="")
        self._url = bare.geturl()
        self.id = self._url
        if " " in self._url or not self._url.isascii():
            raise refused(self.name, "holds a space or a letter that an address cannot hold", "write it as %20, %C3%BC ...")
        self._opener: OpenerDirector | None = None
        self._last: Content | None = None
        self._etag: str | None = None

    def load(self, timeout_s: float = ANSWER_S) -> Content:
        deadline = time.monotonic() + 2 * timeout_s
        try:
            with self._opened().open(self._request(), timeout=timeout_s) as response:
                return self._taken(response, deadline)
        except HTTPError as error:
            error.close()  # it holds the connection
            status = error.code
        except SSLCertVerificationError:
            raise untrusted(self.name) from None
        except URLError as error:
            if isinstance(error.reason, SSLCertVerificationError):
                raise untrusted(self.name) from None
            raise down(self.name, _reason(error.reason)) from None
        except (OSError, HTTPException) as error:
            raise down(self.name, _reason(error)) from None
        return self._answered(status)

    def _opened(self) -> OpenerDirector:
        if self._opener is None:
            proxies = ProxyHandler({}) if self._loopback else ProxyHandler()
            self._opener = build_opener(proxies, _NoRedirects(), HTTPSHandler(context=create_default_context()))
        return self._opener

    def _request(self) -> Request:
        headers = {"Accept": f"{YAML}, text/yaml, text/plain, */*;q=0.1", "User-Agent": "mqsdk"}
        if self._etag is not None:
            headers["If-None-Match"] = self._etag
        user, password = self._user
        if user is not None or password is not None:
            pair = base64.b64encode(f"{user or ''}:{password or ''}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        return Request(self._url, headers=headers)

    def _taken(self, response: HTTPResponse, deadline: float) -> Content:
        if response.status != 200:
            raise refused(self.name, f"answers with status {response.status}, not 200", "check the address")
        kind = response.headers.get_content_type()
        if kind == "text/html":
            raise refused(self.name, "answers with a page (text/html), not with a configuration", "check the address; is it a login page?")
        data = self._read(response, deadline)
        etag = response.headers.get("ETag")
        self._last, self._etag = Content(etag or digest(data), data, kind), etag
        return self._last

    def _read(self, response: HTTPResponse, deadline: float) -> bytes:
        """The whole body: a server that sends a byte now and then must not hold the thread, half a body is none."""
        data = b""
        while chunk := response.read1(CHUNK):
            data += chunk
            if len(data) > MAX_BYTES:
                raise too_large(self.name)
            if time.monotonic() > deadline:
                raise down(self.name, "the answer takes too long")
        if response.length:
            raise down(self.name, "the answer ended early")
        return data

    def _answered(self, status: int) -> Content:
        if status == 304 and self._last is not None:
            return self._last
        if status >= 500 or status in _PASSING:
            raise down(self.name, f"the server answers with status {status}")
        if 300 <= status < 400:
            raise refused(self.name, f"leads to another address (status {status}), which is not followed", "give that address")
        if status in (401, 403):
            raise refused(self.name, f"may not be read (status {status})", "give the user and password: https://user:password@host/...")
        raise refused(self.name, f"answers with status {status}", "check the address")

    def watch(self, changed: Callable[[], object]) -> None:
        return None

    def close(self) -> None:
        return None  # each GET has a connection of its own


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str) -> None:
        return None


def _reason(error: Any) -> str:
    """Never the text of an exception, which may quote the address."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
