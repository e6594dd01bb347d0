"""Who may ask the dashboard what: WSGI middleware before everything that it serves."""

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Unless a page has one of its own. Plotly writes style elements, so styles may be inline; scripts may not."""

_COOKIE = "langsearch"
_REQUEST_HEADER = "HTTP_X_LANGSEARCH"
"""Another site's page cannot send it without asking first, which is refused."""


@dataclass(frozen=True)
class Guard:
    """Lets a request through, or answers it.

    Without a token only this machine is served: the name in `Host` must be one of its loopback names, so that no page
    of another site reaches us by a name that it points at 127.0.0.1. With a token every request must bring it, in a
    cookie, as a bearer, or once in the URL, which sets the cookie.

    Requests that change something must come from a page of ours.

    Args:
        application: What is guarded.
        token: The secret. None: loopback alone.
        host: The name or address that is listened on.
    """

    application: "WSGIApplication"
    token: str | None
    host: str

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answers one request, as WSGI says."""

        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Any:
            known = {name.lower() for name, _ in headers}
            added = {**_HEADERS, "Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
            headers += [(name, value) for name, value in added.items() if name.lower() not in known]
            return start_response(status, headers, error)

        refusal = self._refusal(environ)
        if refusal is not None:
            return _answer(start, *refusal)
        if self.token is not None:
            given = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)).get("token")
            if given is not None and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
                return self._welcome(environ, start, given)
            if not self._is_known(environ):
                text = "Every request needs the token. Open the address with ?token=TOKEN once, or send it as a bearer."
                return _answer(start, HTTPStatus.UNAUTHORIZED, text, {"WWW-Authenticate": "Bearer"})
        return self.application(environ, start)

    def _refusal(self, environ: "WSGIEnvironment") -> tuple[HTTPStatus, str] | None:
        host = environ.get("HTTP_HOST", "")
        if not self._is_ours(host):
            return HTTPStatus.FORBIDDEN, f"The address must name this machine, but its host is {host[:200]!r}."
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return None
        origin = environ.get("HTTP_ORIGIN")
        is_foreign = origin is not None and urlsplit(origin).netloc != host
        is_foreign = is_foreign or environ.get("HTTP_SEC_FETCH_SITE", "same-origin") != "same-origin"
        if is_foreign or not environ.get(_REQUEST_HEADER):
            return HTTPStatus.FORBIDDEN, "What changes something must come from a page of this dashboard."
        return None

    def _is_ours(self, host: str) -> bool:
        name = re.sub(r":\d+$", "", host).strip("[]").lower().rstrip(".")
        if name in LOOPBACK:
            return True
        if self.token is None:
            return False
        # The cookie belongs to a name, so another one does not bring it; we cannot know all names of this machine.
        return name in (self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()) or _is_address(name)

    def _is_known(self, environ: "WSGIEnvironment") -> bool:
        kind, _, bearer = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.lower() == "bearer":
            return self._is_token(bearer.strip())
        try:
            cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self._cookie(environ))
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._secret().encode())

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _secret(self) -> str:
        """Returns what the cookie holds: whoever reads it does not learn the token."""
        assert self.token is not None
        return sha256(b"langsearch dashboard\0" + self.token.encode()).hexdigest()

    @staticmethod
    def _cookie(environ: "WSGIEnvironment") -> str:
        """Returns the cookie's name: ports of one host share their cookies."""
        return f"{_COOKIE}_{environ.get('SERVER_PORT', '')}"

    def _welcome(self, environ: "WSGIEnvironment", start: Any, given: str) -> Iterable[bytes]:
        """Takes the token out of the address, so that it does not stay in the history, and into a cookie."""
        if not self._is_token(given):
            return _answer(start, HTTPStatus.UNAUTHORIZED, "The token is not the dashboard's.")
        query = [(name, value) for name, value in parse_qsl(environ.get("QUERY_STRING", "")) if name != "token"]
        path = "/" + environ.get("PATH_INFO", "/").lstrip("/\\")  # never "//host"
        target = path.encode("latin-1", "replace").decode("ascii", "ignore") + (f"?{urlencode(query)}" if query else "")
        cookie = f"{self._cookie(environ)}={self._secret()}; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000"
        return _answer(start, HTTPStatus.SEE_OTHER, "", {"Location": target, "Set-Cookie": cookie})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _answer(start: Any, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> Iterable[bytes]:
    content = f"{text}\n".encode()
    given = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(content)), **(headers or {})}
    start(f"{status.value} {status.phrase}", list(given.items()))
    return [content]
