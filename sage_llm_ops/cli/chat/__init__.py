"""`sage-llm-ops chat`: talk to a gateway, or to a model in this process.

On a terminal a conversation; otherwise one prompt in, one answer out, for scripts.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_llm_ops.cli.output import Json, json_text

if TYPE_CHECKING:
    from sage_llm_ops.cli.chat.talk import Partner

URL = "http://127.0.0.1:8889"


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="One prompt, one answer; without it, stdin.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help=f"A gateway, or any OpenAI-compatible server ({URL}).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="No gateway: a services.toml or pipeline, run here.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="Which service, where --config has several.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="No gateway: one worker of this engine, run here.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the one that is served.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 512,
    temperature: Annotated[float, typer.Option(help="0: greedy.")] = 0.7,
    api_key: Annotated[
        str, typer.Option(envvar="SAGE_LLM_OPS_API_KEY", help="Sent to --url.")
    ] = "EMPTY",
    json: Json = False,
) -> None:
    """Talk to a model. On a terminal: /reset forgets what was said, /quit ends."""
    from sage_llm_ops.cli.chat.talk import Conversation, talk

    sampling = {"max_tokens": max_tokens, "temperature": temperature}
    if prompt is None and (json or not sys.stdin.isatty()):
        prompt = sys.stdin.read().strip()
    with _partner(url, config, service, engine, model, api_key, sampling) as partner:
        conversation = Conversation(partner, system)
        if prompt is None:
            talk(conversation)
            return
        pieces = _one(conversation, prompt)
        if json:
            for _ in pieces:
                pass
            answer = conversation.messages[-1]["content"]
            typer.echo(json_text({"model": partner.model, "prompt": prompt, "answer": answer}))
            return
        for piece in pieces:
            typer.echo(piece, nl=False)
        typer.echo()


def _one(conversation: Any, prompt: str) -> Iterator[str]:
    from sage_llm_ops.types.errors import InvalidRequest

    if not prompt:
        raise InvalidRequest("nothing to say: give a prompt as an argument or on stdin")
    pieces: Iterator[str] = conversation.say(prompt)
    return pieces


@contextlib.contextmanager
def _partner(
    url: str | None,
    config: Path | None,
    service: str | None,
    engine: str | None,
    model: str | None,
    api_key: str,
    sampling: dict[str, Any],
) -> Iterator[Partner]:
    from sage_llm_ops.types.errors import ConfigError

    given = {"--url": url, "--config": config, "--engine": engine}
    said = [name for name, value in given.items() if value is not None]
    if len(said) > 1:
        raise ConfigError(f"{' and '.join(said)} name different partners; choose one")
    if service is not None and config is None:
        raise ConfigError(f"--service {service!r} names a table of a file: give its --config, too")
    if config is None and engine is None:
        from sage_llm_ops.cli.chat.remote import Remote

        with Remote(url or URL, model, api_key, sampling) as remote:
            yield remote
        return
    from sage_llm_ops.cli.chat.local import local

    with local(config, service, engine, model, sampling) as here:
        yield here
