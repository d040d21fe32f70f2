"""What a command says that a user interrupts: what it has done, and whether to repeat it."""

from __future__ import annotations

import _thread
import atexit
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

# How long after a lost interruption the command is interrupted again.
_AGAIN_S = 0.01

# A shell's exit code for a command that SIGINT ended.
EXIT_CODE = 130

NOTHING_CHANGED = "Nothing was changed."

_TOLD = "sessions_db.interrupted"

_over = threading.Event()


class Interrupted(click.ClickException):
    """The user interrupted the command. Its message is what was done."""

    exit_code = EXIT_CODE

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it on stderr, on a line of its own after the terminal's ^C."""
        click.echo(f"\nInterrupted. {self.format_message()}", file=file, err=True)


def will_change(told: str = "It was done or it was not; repeating it is safe.") -> None:
    """Have an interruption from now on answered with this text."""
    if (ctx := click.get_current_context(silent=True)) is not None:
        ctx.meta[_TOLD] = told


def will_change_nothing() -> None:
    """Have an interruption from now on answered so, as it is at first."""
    will_change(NOTHING_CHANGED)


def interrupted(ctx: click.Context) -> Interrupted:
    """What to raise for a KeyboardInterrupt."""
    return Interrupted(ctx.meta.get(_TOLD, NOTHING_CHANGED))


@contextmanager
def telling(done: Callable[[], str]) -> Iterator[None]:
    """Answer an interruption of the block with what was done by then."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(done()) from None


def prepare() -> None:
    """Have each interruption of this process, which only runs the command, answered in one line."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # started in the background, where a shell has it ignored
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _interrupt_again
    # Python gives the signal back to the system when it begins to exit, which would then end it without its exit code.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    # The pool logs what it passes on.
    logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())


def is_over() -> None:
    """Let the command be interrupted no more: all is said."""
    _over.set()


def _interrupt(_signal: int, _frame: object) -> None:
    # Who presses the key again does not want to wait for what is still put in order.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not _over.is_set():
        raise KeyboardInterrupt


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt the command once more where the first time nobody could be told, as in a finalizer."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    signal.signal(signal.SIGINT, _interrupt)
    threading.Timer(_AGAIN_S, _send).start()


def _send() -> None:
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        # A signal, because the main thread may wait for another one.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
