"""What the peers are called, in the figures and on the page."""

from __future__ import annotations

from typing import Final

OURS: Final = "sessions_db"
OURS_ASYNC: Final = "sessions_db, async"
DRIVER: Final = "the plain driver, sessions_db's statement"
OPENAI_SQLITE: Final = "OpenAI Agents, SQLiteSession"
OPENAI_SQLALCHEMY: Final = "OpenAI Agents, SQLAlchemySession"
ADK: Final = "Google ADK, DatabaseSessionService"
LANGCHAIN: Final = "LangChain, SQLChatMessageHistory"
LANGCHAIN_POSTGRES: Final = "LangChain, PostgresChatMessageHistory"
AGNO: Final = {"sqlite": "Agno, SqliteDb", "postgresql": "Agno, PostgresDb"}

PEERS: Final = {
    "sqlite": (OPENAI_SQLITE, OPENAI_SQLALCHEMY, ADK, LANGCHAIN, AGNO["sqlite"]),
    "postgresql": (OPENAI_SQLALCHEMY, ADK, LANGCHAIN, LANGCHAIN_POSTGRES, AGNO["postgresql"]),
}

AS_IT_COMES: Final = ", rollback journal"
"""Follows the name of a peer that leaves a new SQLite file in its rollback journal, and was left to do so."""
