"""The MCP server: which tools it has, and how it presents what they return."""

from __future__ import annotations

import inspect
import json
import secrets
from functools import wraps
from importlib.metadata import version
from typing import Annotated, Any

from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult, TextContent, ToolAnnotations

from sessions_db.escaping import safe_json
from sessions_db.tools import SessionTools
from sessions_db.tools.results import NOTE, Outcome
from sessions_db.tools.session_tools import Tool

_READING = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_WRITING = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
_STOPPING = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


def create_server(
    tools: SessionTools,
    *,
    writing: bool = False,
    token_verifier: TokenVerifier | None = None,
    auth: AuthSettings | None = None,
) -> MCPServer[Any]:
    """A server with the tools that read, and those that write only if `writing` is True."""
    server: MCPServer[Any] = MCPServer(
        "sessions-db",
        instructions=f"The sessions of agents, their tasks and their messages. What is shown is {tools.rule}. {NOTE}",
        version=version("sessions-db"),
        token_verifier=token_verifier,
        auth=auth,
        log_level="WARNING",
    )
    for tool in tools.reading:
        server.add_tool(_presenting(tool), annotations=_READING)
    if writing:
        for tool in tools.writing:
            annotations = _STOPPING if tool == tools.sessions_kill else _WRITING
            server.add_tool(_presenting(tool), annotations=annotations)
    return server


def _presenting(tool: Tool) -> Tool:
    """The tool, with its result as structured content and as a text for the model."""

    @wraps(tool)
    async def call(**arguments: object) -> CallToolResult:
        outcome = await tool(**arguments)
        if "error" in outcome:
            # As it is without a structure: the client would check it against that of a result.
            return CallToolResult(content=[TextContent(text=outcome["error"])], is_error=True)
        return CallToolResult(content=[TextContent(text=_as_text(outcome))], structured_content=outcome)

    signature = inspect.signature(tool, eval_str=True)
    returned = Annotated[CallToolResult, signature.return_annotation]
    call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _as_text(outcome: Outcome) -> str:
    # JSON leaves line separators and the like as they are, by which data could look like more than one line.
    told = safe_json(json.dumps(outcome, ensure_ascii=False))
    if "note" not in outcome:
        return told
    # Nobody can have written the mark into a session before.
    mark = secrets.token_hex(8)
    return f"{NOTE} The data is between the marks {mark}.\n{mark}\n{told}\n{mark}"
