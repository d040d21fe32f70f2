"""Ctrl-C in the process of a command."""

from __future__ import annotations

import _thread
import atexit
import logging
import signal
import sys
import threading

# How long after a lost interruption the command is interrupted again.
_AGAIN_S = 0.01

_over = threading.Event()


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
