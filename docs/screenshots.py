"""Takes the screenshots of web.md: `python docs/screenshots.py`, with the extra `test` and Debian's chromium."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright

from sessions_db import SessionManager
from sessions_db.cli import scenario

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Play the demo's run, and take a picture of two pages that show it."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        url = f"sqlite:///{directory}/demo.db"
        with SessionManager(url, actor="reporting-service") as manager:
            scenario.play(manager)
            research = next(each for each in manager.list() if each.task == scenario.REPEATED_TASK)
        command = [sys.executable, "-m", "sessions_db", "--db", url, "web", "--port", "0"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            at = re.match(r"(http://\S+)/ ", server.stderr.readline())
            assert at is not None
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for name, path, scheme in (
                ("sessions", "/", "light"),
                ("session", f"/session?{urlencode({'key': research.key})}", "dark"),
            ):
                page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme=scheme)
                page.goto(at[1] + path)
                page.screenshot(path=IMAGES / f"{name}.png")
            browser.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


if __name__ == "__main__":
    main()
