"""The layout that CONTRIBUTING.md describes, and that an addition reaches every place where it belongs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from graphlib import TopologicalSorter

import click
import pytest

import sessions_db
from sessions_db import ExportedMessage, ExportedSession, schema, transfer
from sessions_db.cli import cli
from tests.support.pages import ROOT

PACKAGE = ROOT / "sessions_db"

# A module imports from its own layer and from those before it.
LAYERS = [
    *(
        "enums",
        "limits",
        "clock",
        "errors",
        "validation",
        "keys",
        "escaping",
        "wording",
        "signals",
        "digests",
        "models",
    ),
    *("schema", "database", "operations"),
    *(
        "store",
        "transaction",
        "calls",
        "group_commit",
        "waiting",
        "manager",
        "default",
        "aio",
        "doctor",
        "schemas",
        "integrations",
        "transfer",
        "tools",
        "mcp",
        "web",
        "cli",
    ),
]

# The modules that may ask which database it is.
KNOW_THE_DATABASE = re.compile(r"sessions_db\.(database\.sqlite|database\.postgresql|schema)\b")


def read_modules() -> dict[str, ast.Module]:
    """The modules of the package by their full names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


MODULES = read_modules()


def imports(tree: ast.Module) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in its code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


def layer(module: str) -> int:
    """The position of the module's layer; the package itself and its command come last."""
    _, _, name = module.partition(".")
    return len(LAYERS) if name in ("", "__main__") else LAYERS.index(name.partition(".")[0])


def compares_database_names(tree: ast.Module) -> bool:
    """Whether the module compares something with SQLAlchemy's name of a database."""
    for node in ast.walk(tree):
        operands = []
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            operands = [node.value]
        for operand in operands:
            texts = {part.value for part in ast.walk(operand) if isinstance(part, ast.Constant)}
            if {"sqlite", "postgresql"}.intersection(texts):
                return True
    return False


def test_modules_import_only_from_layers_above_them() -> None:
    later = {
        (module, imported)
        for module, tree in MODULES.items()
        for imported in imports(tree)
        if layer(imported) > layer(module)
    }

    assert later == set()


def test_modules_import_each_other_without_a_circle() -> None:
    graph = {module: set(imports(tree)) - {module} for module, tree in MODULES.items()}

    assert set(TopologicalSorter(graph).static_order()) == set(MODULES)


def test_only_modules_that_are_meant_to_ask_which_database_it_is() -> None:
    asking = [module for module, tree in MODULES.items() if compares_database_names(tree)]

    assert [module for module in asking if not KNOW_THE_DATABASE.match(module)] == []


def test_no_module_has_more_than_300_lines() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}

    assert {path: count for path, count in lines.items() if count > 300} == {}


def test_contributing_describes_every_layer_in_this_order() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    table = page.partition("| place | concern |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)

    described = [name for cell in cells for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)]

    assert [name for name in described if name != "__init__"] == LAYERS


def test_exported_session_has_the_columns_of_its_table() -> None:
    owned = {"labels", "messages", "archived_messages"}

    # Whether the next seal of this database has to look at it is nothing about the session.
    columns = [name for name in schema.sessions.c.keys() if name != "unsealed"]  # noqa: SIM118  # not a dict

    assert [each.name for each in fields(ExportedSession) if each.name not in owned] == columns


def test_exported_message_has_the_columns_of_its_table() -> None:
    columns = [name for name in schema.archived_messages.c.keys() if name != "session_key"]  # noqa: SIM118  # not a dict

    assert [each.name for each in fields(ExportedMessage)] == columns


def test_export_format_is_documented_field_by_field() -> None:
    page = (ROOT / "docs" / "usage.md").read_text().partition("### Export and import")[2].partition("### ")[0]
    names = {each.name for model in (ExportedSession, ExportedMessage) for each in fields(model)}

    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("view", schema.VIEWS["postgresql"])
def test_view_is_revoked_from_all_and_granted_to_both_roles(view: str) -> None:
    script = (ROOT / "docs" / "roles.sql").read_text()
    statements = [statement for statement in script.split(";") if re.search(rf"\b{view}\b", statement)]

    assert sum("REVOKE ALL ON" in statement for statement in statements) == 1
    assert sum("GRANT SELECT" in statement and ':"service"' in statement for statement in statements) == 1
    assert sum("GRANT SELECT" in statement and ':"auditor"' in statement for statement in statements) == 1


def commands(group: click.Group, prefix: str = "sessions-db") -> Iterator[str]:
    """Every command of the group, with what comes before it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


@pytest.mark.parametrize("command", sorted(commands(cli)))
def test_command_is_in_the_table_of_commands(command: str) -> None:
    page = (ROOT / "docs" / "usage.md").read_text()

    assert re.search(rf"^\| `{command}[ `]", page, flags=re.MULTILINE)


def test_every_module_with_commands_is_registered() -> None:
    registered = set(imports(MODULES["sessions_db.cli"]))
    with_commands = {
        module
        for module, tree in MODULES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        if ast.unparse(decorator).startswith("cli.command")
    }

    assert with_commands
    assert with_commands <= registered


def test_reference_has_every_public_name() -> None:
    pages = [page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md")]
    documented = {name for page in pages for name in re.findall(r"^::: (\S+)$", page, flags=re.MULTILINE)}
    public = {f"sessions_db.{name}" for name in sessions_db.__all__}
    public |= {f"sessions_db.transfer.{name}" for name in transfer.__all__}
    public |= {"sessions_db.tools.SessionTools", "sessions_db.tools.Visibility"}

    # The last one takes in each integration by itself.
    assert documented == public | {"sessions_db.integrations"}
