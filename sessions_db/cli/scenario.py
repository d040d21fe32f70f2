"""The built-in run that `sessions-db demo` shows: one agent, its sub-agents and a nightly job prepare a report."""

from __future__ import annotations

import uuid
from typing import Final

from sessions_db.enums import Role
from sessions_db.manager import SessionManager
from sessions_db.models import NewMessage

AGENT: Final = "demo"
LABEL: Final = "demo-report"

REPEATED_TASK: Final = "Read last week's tickets"
"""The task of the session whose spawn is repeated."""

PROGRESS_MESSAGES: Final = 150
"""How many progress messages the main session is sent: more than it retains."""

AUDIT_QUERY: Final = """\
SELECT coalesce(task, '(main session)') AS task, status, end_reason,
       message_count AS sent, retained_count AS retained, owns_label
FROM audit_sessions
WHERE agent_id = 'demo'
ORDER BY created_ms, session_key"""
"""An auditor's question, in SQL that both databases accept: how each session ended, and what is left of it."""


def play(manager: SessionManager) -> None:
    """Play the run."""
    main = manager.get_or_create_main(AGENT)
    manager.send_message(main.key, "Prepare the report on last week's support tickets.")

    _research(manager, main.key)
    _write(manager, main.key)
    manager.spawn_subagent(AGENT, "Look for older reports to compare with", parent_key=main.key)

    nightly = manager.spawn_cron(AGENT, "Count the open tickets", parent_key=main.key)
    manager.add_message(nightly, Role.ASSISTANT, "17 tickets are open.")
    manager.complete_session(nightly)

    steps = range(1, PROGRESS_MESSAGES + 1)
    manager.add_messages(main.key, [NewMessage(Role.ASSISTANT, f"Ticket {step} is in the report.") for step in steps])


def _research(manager: SessionManager, parent_key: str) -> None:
    request = str(uuid.uuid4())
    key = manager.spawn_subagent(AGENT, REPEATED_TASK, parent_key=parent_key, idempotency_key=request)
    # As after a lost connection: the caller does not know whether its calls arrived, and repeats them.
    manager.spawn_subagent(AGENT, REPEATED_TASK, parent_key=parent_key, idempotency_key=request)
    for _ in range(2):
        manager.add_message(key, Role.USER, "Start with the oldest.", idempotency_key="start")
    manager.add_message(
        key,
        Role.ASSISTANT,
        "",
        metadata={"tool_calls": [{"function": {"name": "read_tickets", "arguments": '{"days": 7}'}}]},
    )
    manager.add_message(key, Role.TOOL, '{"tickets": 150}', tool_name="read_tickets")
    manager.add_message(key, Role.ASSISTANT, "I read 150 tickets.")
    manager.complete_session(key)


def _write(manager: SessionManager, parent_key: str) -> None:
    first = manager.spawn_subagent(AGENT, "Write the report", LABEL, parent_key)
    manager.send_message(first, "One page, please.")
    manager.error_session(first, "the model stopped answering")
    # The label follows the newest session that has it.
    second = manager.spawn_subagent(AGENT, "Write the report again", LABEL, parent_key)
    manager.send_message(second, "One page, please.")
    manager.add_message(second, Role.ASSISTANT, "The report is written.")
    manager.complete_session(second)
