"""The command that prints a completion script for a shell."""

from __future__ import annotations

import os
from typing import ClassVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from sessions_db.cli.group import cli

_INSTALLED = {
    "bash": 'Put this line into ~/.bashrc: eval "$(sessions-db completion bash)"',
    "zsh": 'Put this line into ~/.zshrc: eval "$(sessions-db completion zsh)"',
    "fish": "Run once: sessions-db completion fish > ~/.config/fish/completions/sessions-db.fish",
}

# Bash divides words at colons, of which every key has some, and at equals signs. It replaces only what comes after the
# last one.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} answer type value
    local word=${line##*[[:space:]]}
    local breaks=${COMP_WORDBREAKS//[^:=]/} before=
    [[ -z $breaks ]] || before=${word%%"${word##*[$breaks]}"}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done < <(env COMP_LINE="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _WithOption(ShellComplete):
    """Completion that offers `--option=value` where that is begun: shells ask for a whole word."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """What is offered for the incomplete word."""
        option, equals, _ = incomplete.partition("=")
        items = super().get_completions(args, incomplete)
        if equals and option.startswith("-"):
            for item in items:
                item.value = f"{option}={item.value}"
        return items


@add_completion_class
class _Zsh(_WithOption, ZshComplete):
    """Completion for zsh, also where ~/.zshrc has not set completion up."""

    source_template: ClassVar[str] = ZshComplete.source_template.replace(
        "\n", "\n(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }\n", 1
    )


@add_completion_class
class _Fish(_WithOption, FishComplete):
    """Completion for fish of words with a comma."""

    source_template: ClassVar[str] = FishComplete.source_template.replace('split ","', 'split --max 1 ","')


@add_completion_class
class _Bash(_WithOption, BashComplete):
    """Completion for Bash of words that hold colons."""

    source_template: ClassVar[str] = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is being typed, and that one."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if line[-1:].isspace() or not words else (words[:-1], words[-1])


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
