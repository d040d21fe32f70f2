"""The command that prints a completion script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sessions_db.cli.group import cli

_INSTALLED = {
    "bash": 'Put this line into ~/.bashrc: eval "$(sessions-db completion bash)"',
    "zsh": 'Put this line into ~/.zshrc: eval "$(sessions-db completion zsh)"',
    "fish": "Run once: sessions-db completion fish > ~/.config/fish/completions/sessions-db.fish",
}


@cli.command()
@click.argument("shell", type=click.Choice(list(_INSTALLED)))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    \b
      bash  into ~/.bashrc:  eval "$(sessions-db completion bash)"
      zsh   into ~/.zshrc:   eval "$(sessions-db completion zsh)"
      fish  once:  sessions-db completion fish \\
                     > ~/.config/fish/completions/sessions-db.fish
    """  # noqa: D301  # Click keeps the lines after a backspace as they are
    script = get_completion_class(shell)
    if script is None:
        raise click.ClickException(f"This release of Click completes nothing in {shell}.")
    click.echo(script(cli, {}, "sessions-db", "_SESSIONS_DB_COMPLETE").source())
    click.echo(f"# {_INSTALLED[shell]}")
