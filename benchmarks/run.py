"""A run: each chosen section is measured and its figures kept, then the page is written from all that are kept."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import conversations as messages
from benchmarks import report
from benchmarks.databases import Databases, conninfo
from benchmarks.environment import ROOT
from benchmarks.sections import RETAINED, Bench

_MODULES = {
    "floor": "benchmarks.floor",
    "stages": "benchmarks.stages",
    "peers": "benchmarks.comparison",
    "concurrency": "benchmarks.concurrency",
    "growth": "benchmarks.growth",
}


def run(sections: Sequence[str], *, cache: Path, conversations: Path | None, quick: bool) -> None:
    """Measure the sections and write the page: to `docs/`, or for a quick run to the cache."""
    if quick:
        cache /= "quick"
    figures = cache / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    with Databases() as databases, asyncio.Runner() as runner:
        stored = messages.load(conversations, RETAINED)
        bench = Bench(databases, stored, runner, quick)
        for section in sections:
            print(f"{section} …", flush=True)
            # Imported when its turn comes: what the peers bring along must not be there while others are measured.
            results = import_module(_MODULES[section]).run(bench)
            for name, figure in results.figures.items():
                print(f"  {name}: {figure.median:.3g} ({figure.low:.3g} to {figure.high:.3g})", flush=True)
            origin = _origin(databases, conversations)
            kept = {"section": section, "origin": origin, **results.to_dict()}
            (figures / f"{section}.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    kept_sections = {path.stem: json.loads(path.read_text()) for path in figures.glob("*.json")}
    pages = cache / "docs" if quick else ROOT / "docs"
    page = report.write(kept_sections, pages, quick=quick)
    print(f"Written: {os.path.relpath(page)}")


def _origin(databases: Databases, conversations: Path | None) -> dict[str, Any]:
    """Where figures come from: they are comparable only with others from there."""
    with psycopg.connect(conninfo(databases.create("postgresql"))) as connection:
        postgres = connection.info.server_version
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "messages": "generated" if conversations is None else f"real conversations ({conversations.name})",
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
        "python": ".".join(map(str, sys.version_info[:3])),
        "sqlite": sqlite3.sqlite_version,
        "postgres": f"{postgres // 10_000}.{postgres % 10_000}",
        "packages": {name: version(name) for name in ("sessions-db", "sqlalchemy", "psycopg")},
    }
