"""The programs in `examples/` do what they say."""

from __future__ import annotations

import re
import subprocess
import sys

from sessions_db import SessionManager
from tests.support.pages import ROOT
from tests.support.soundness import faults


def test_newsroom_writes_one_article_and_passes_its_audit(url: str) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "newsroom.py"), url]

    lines = subprocess.check_output(command, text=True).splitlines()

    assert lines[:2] == ["1 user      A new tram line opens.", "2 user      The museum is free on Sundays."]
    assert re.fullmatch(r"3 assistant (Take the tram to the museum\.|Sunday is museum day\.)", lines[2])
    assert lines[3:] == [
        "researcher: Find what is new, completed (6 messages)",
        "writer: Write it down, completed (3 messages)",
        "writer: Write it shorter, completed (3 messages), forked at 2",
        "taken back: 1 message, number 6, by newsroom",
        "session_updated: metadata",
        "log: as it was sealed",
    ]
    # Numbers are missing only where a message was taken back.
    assert all("agent:researcher:" in fault for fault in faults(url))
    with SessionManager(url) as manager:
        assert manager.count(active_only=True) == 1
        fork = manager.get_by_label("article")
        assert fork is not None
        assert (fork.task, fork.forked_at_seq, fork.message_count) == ("Write it shorter", 2, 3)
