"""Serving the session tools, over the process's input and output or over HTTP."""

from __future__ import annotations

import hmac
import socket

import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl

from sessions_db.mcp.server import create_server
from sessions_db.tools import SessionTools


class _OneToken:
    """Knows the one token that is accepted."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def verify_token(self, token: str) -> AccessToken | None:
        """Who has the token; None if it is another. It takes as long for a token that is nearly right."""
        if not hmac.compare_digest(token.encode(), self._token):
            return None
        return AccessToken(token=token, client_id="bearer", scopes=[])


async def over_stdio(tools: SessionTools, *, writing: bool) -> None:
    """Serve one client, until it closes the process's input."""
    await create_server(tools, writing=writing).run_stdio_async()


async def over_http(tools: SessionTools, listening: socket.socket, token: str, *, writing: bool) -> None:
    """Serve clients that know the token, at `/mcp` of the socket's port, until SIGINT or SIGTERM."""
    own = f"127.0.0.1:{listening.getsockname()[1]}"
    # The SDK asks who issues tokens. Without a `resource_server_url`, it sends no client there.
    auth = AuthSettings(issuer_url=AnyHttpUrl(f"http://{own}"), resource_server_url=None)
    server = create_server(tools, writing=writing, token_verifier=_OneToken(token), auth=auth)
    # A page in a browser could reach a loopback port by another name, but not change the headers that tell.
    names = [own, f"localhost:{listening.getsockname()[1]}"]
    app = server.streamable_http_app(transport_security=TransportSecuritySettings(allowed_hosts=names))
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve([listening])
