"""A run: measure the chosen sections and keep their figures, then write the page from all figures kept so far."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import psycopg

from benchmarks import report
from benchmarks.conversations import load
from benchmarks.databases import Databases, conninfo
from benchmarks.environment import CACHE, ROOT
from benchmarks.sections import RETAINED, Bench, Results

_PACKAGES = ("sessions-db", "sqlalchemy", "psycopg")


def run(sections: Sequence[str], *, conversations: Path | None, before: Path | None, quick: bool) -> None:
    """Measure the sections and write the page: to `docs/`, or for a quick run to the cache."""
    cache = CACHE / "quick" if quick else CACHE
    figures = cache / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    with Databases() as databases, asyncio.Runner() as runner:
        bench = Bench(databases, load(conversations, RETAINED), runner, quick, before)
        for section in sections:
            print(f"{section} …", flush=True)
            # Imported as late as possible: the peers' imports must not weigh on other sections.
            results: Results = import_module(f"benchmarks.{section}").run(bench)
            for name, figure in results.figures.items():
                print(f"  {name}: {figure.median:.3g} ({figure.low:.3g} to {figure.high:.3g})", flush=True)
            results.origin = _origin(databases, conversations)
            kept = json.dumps(asdict(results), indent=2, ensure_ascii=False)
            (figures / f"{section}.json").write_text(f"{kept}\n", encoding="utf-8")
    results_by_section = {path.stem: Results.load(path) for path in figures.glob("*.json")}
    page = report.write(results_by_section, cache / "docs" if quick else ROOT / "docs", quick=quick)
    print(f"Written: {os.path.relpath(page)}")


def _origin(databases: Databases, conversations: Path | None) -> dict[str, str]:
    with psycopg.connect(conninfo(databases.create("postgresql"))) as connection:
        postgres = connection.info.server_version
    versions = {
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "Postgres": f"{postgres // 10_000}.{postgres % 10_000}",
        **{package: version(package) for package in _PACKAGES},
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "messages": "generated" if conversations is None else f"real conversations ({conversations.name})",
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
