"""A conversation: what was said, and the loop on a terminal around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import typer

from sage_llm_ops.cli.output import print_error, readable
from sage_llm_ops.types.errors import SageLlmOpsError

Message = dict[str, str]
COMMANDS = "/reset forgets what was said, /quit ends"


class Partner(Protocol):
    """Whoever answers."""

    model: str

    def answer(self, messages: list[Message]) -> Iterator[str]:
        """The next turn, in pieces as they come. Closed early: nobody wants the rest."""


class Conversation:
    """Remembers the turns that were answered to their end; one that failed was never said."""

    def __init__(self, partner: Partner, system: str | None = None) -> None:
        self.partner = partner
        self._first: list[Message] = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._first)

    def reset(self) -> None:
        """As if nothing had been said."""
        self.messages = list(self._first)

    def say(self, text: str) -> Iterator[str]:
        """The answer, in pieces that a terminal may show."""
        asked = [*self.messages, {"role": "user", "content": text}]
        whole = []
        for piece in self.partner.answer(asked):
            whole.append(piece)
            yield readable(piece, keep="\n\t")
        self.messages = [*asked, {"role": "assistant", "content": "".join(whole)}]


def talk(conversation: Conversation, read: Callable[[str], str] = input) -> None:
    """Until /quit or the end of input. Ctrl-C ends an answer, not the conversation."""
    typer.echo(f"{conversation.partner.model}: {COMMANDS}", err=True)
    while True:
        try:
            text = read("> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if text == "/quit":
            return
        if text == "/reset":
            conversation.reset()
        elif text.startswith("/"):
            typer.echo(f"{text.split()[0]} is no command: {COMMANDS}", err=True)
        elif text:
            _show(conversation.say(text))


def _show(pieces: Iterator[str]) -> None:
    try:
        for piece in pieces:
            typer.echo(piece, nl=False)
        typer.echo()
    except KeyboardInterrupt:
        typer.echo(" ... (stopped; this turn is forgotten)")
    except SageLlmOpsError as error:
        typer.echo()
        print_error(error)
