"""`jetp completion`: what a shell needs to complete the words of `jetp`. click makes it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from jetwatch.cli.streams import say_text

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print the completion of a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what SHELL needs to complete commands, options and files after `jetp`.

    bash needs version 4.4.

    \b
    Examples:
      jetp completion bash > /usr/share/bash-completion/completions/jetp
      jetp completion zsh > /usr/share/zsh/vendor-completions/_jetp
      jetp completion fish > ~/.config/fish/completions/jetp.fish
    """
    from jetwatch.cli.main import jetp

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has all three
    complete = made(jetp, {}, "jetp", "_JETP_COMPLETE")
    # Not source(): for bash that runs the bash of this machine, which need not be the one it is for.
    say_text(complete.source_template % complete.source_vars() + "\n")
