"""Text to store and files to import."""

from __future__ import annotations

import json

NASTY = "[red]x[/red] [/] :smile: \x1b[31mred \x9b31m \r \u202e end"


def jsonl(*texts: str) -> bytes:
    lines = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
