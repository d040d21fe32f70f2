"""Commands that change one session. Each asks first."""

from __future__ import annotations

from collections.abc import Callable

import click

from sessions_db.cli import interruption, terminal
from sessions_db.cli.asking import ask, yes
from sessions_db.cli.group import acting, as_json, cli
from sessions_db.cli.naming import find, key_argument
from sessions_db.cli.opening import Database, database, writer
from sessions_db.errors import SessionNotFound
from sessions_db.validation import JsonValue
from sessions_db.wording import counted


def _changing(command: Callable[..., None]) -> Callable[..., None]:
    """The argument and the options that all of these commands have, in the order of their help."""
    return key_argument(yes(as_json(acting(database(click.pass_obj(command))))))


def _report(done: str, result: dict[str, JsonValue], *, as_json: bool) -> None:
    click.echo(terminal.to_json(result) if as_json else terminal.one_line(done))


@cli.command()
@_changing
@click.option("--reason", help="Why, for the log.")
def stop(db: Database, key: str, reason: str | None, is_sure: bool, as_json: bool, actor: str | None) -> None:
    """Stop session KEY.

    Its worker learns of it with its next call. A session that was stopped before stays as it is;
    one that has ended in another way is an error.
    """
    with writer(db, actor) as manager:
        key = find(manager, key)
        ask(f"Stop {key}?", is_sure=is_sure)
        is_new = manager.stop_session(key, reason)
    done = f"{key} was stopped." if is_new else f"{key} had been stopped before."
    _report(done, {"key": key, "stopped": is_new}, as_json=as_json)


@cli.command()
@_changing
def reopen(db: Database, key: str, is_sure: bool, as_json: bool, actor: str | None) -> None:
    """Make session KEY active again."""
    with writer(db, actor) as manager:
        key = find(manager, key)
        ask(f"Reopen {key}?", is_sure=is_sure)
        session = manager.reopen_session(key)
    _report(f"{key} is active.", terminal.without_messages(session), as_json=as_json)


@cli.command()
@_changing
def delete(db: Database, key: str, is_sure: bool, as_json: bool, actor: str | None) -> None:
    """Delete session KEY with its messages and labels.

    Archived messages go with it; the log records the deletion. An active session is
    deleted too.
    """
    with writer(db, actor) as manager:
        session = manager.get(find(manager, key))
        if session is None:
            raise SessionNotFound(key)
        messages = counted(len(session.messages), "message")
        ask(f"Delete {session.key} ({session.status}, {messages} retained)?", is_sure=is_sure)
        is_new = manager.delete_session(session.key)
    done = f"{session.key} was deleted." if is_new else f"{session.key} had been deleted meanwhile."
    _report(done, {"key": session.key, "deleted": is_new}, as_json=as_json)


@cli.command()
@_changing
@click.argument("message")
def send(db: Database, key: str, message: str, is_sure: bool, as_json: bool, actor: str | None) -> None:
    """Send MESSAGE to session KEY, as the user.

    A text that begins with "-" goes after "--".
    """
    with writer(db, actor) as manager:
        key = find(manager, key)
        ask(f"Send this to {key}?", is_sure=is_sure)
        interruption.will_change(f"It was sent or it was not: `sessions-db history {key}` shows which.")
        sent = manager.send_message(key, message)
    _report(f"Message {sent.seq} was sent to {key}.", sent.to_dict(), as_json=as_json)


@cli.command()
@_changing
@click.argument("seq", type=click.IntRange(min=1))
@click.option("--reason", required=True, help="Why, for the log and in place of the message's metadata.")
def redact(db: Database, key: str, seq: int, reason: str, is_sure: bool, as_json: bool, actor: str | None) -> None:
    """Take out the text of message SEQ of session KEY.

    Its number, role and time stay, and the log records it. An archived message is redacted too, and a task that says
    the same. It can't be undone.
    """
    with writer(db, actor) as manager:
        key = find(manager, key)
        ask(f"Redact message {seq} of {key}? It can't be undone.", is_sure=is_sure)
        message = manager.redact_message(key, seq, reason=reason)
    if message is None:
        raise SessionNotFound(key)
    _report(f"Message {seq} of {key} is redacted.", message.to_dict(), as_json=as_json)
