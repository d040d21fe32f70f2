"""What is compared, as the figures and the page call it."""

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
AGNO_SQLITE: Final = "Agno, SqliteDb"
AGNO_POSTGRES: Final = "Agno, PostgresDb"

PEERS: Final = {
    "sqlite": (OPENAI_SQLITE, OPENAI_SQLALCHEMY, ADK, LANGCHAIN, AGNO_SQLITE),
    "postgresql": (OPENAI_SQLALCHEMY, ADK, LANGCHAIN, LANGCHAIN_POSTGRES, AGNO_POSTGRES),
}

ROLLBACK_JOURNAL: Final = ", rollback journal"
"""Follows the name of a peer whose new SQLite file was left in rollback-journal mode, as the peer creates it."""

# The subjects of the floor section besides the library.
STATEMENT: Final = "the library's statement"
THREE_STATEMENTS: Final = "three statements"
ROW_ON_DISK: Final = "row on disk"
ROW: Final = "row"
