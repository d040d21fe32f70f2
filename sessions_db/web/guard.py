"""What protects the pages: who is let in, and what a browser may do with them."""

from __future__ import annotations

import base64
import binascii
import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Nothing from elsewhere, nothing inline. The charts are images in the page itself.
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # What agents wrote stays out of the browser's files.
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI application that adds the headers to each answer, and with a token lets in only who knows it.

    The token is a bearer token, or the password of HTTP Basic, which browsers ask for. The name does not matter.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app = self._app if self._is_let_in(Headers(scope=scope).get("authorization", "")) else _SIGN_IN
        await app(scope, receive, send_with_headers)

    def _is_let_in(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        secret = given.strip().encode("latin-1")
        if scheme.lower() == "basic":
            try:
                _, _, secret = base64.b64decode(secret, validate=True).partition(b":")
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(secret, self._token)


_SIGN_IN = PlainTextResponse(
    "The token is needed: as a bearer token, or as the password with any name.\n",
    status_code=401,
    headers={"WWW-Authenticate": 'Basic realm="sessions-db", charset="UTF-8"'},
)
