"""A model's chat template: jinja text that came with the weights, so it runs in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from sage_llm_ops.types.errors import InvalidRequest

_SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class ChatTemplate:
    """Reads `chat_template.jinja`, else the entry of `tokenizer_config.json`; compiled on first use."""

    def __init__(self, directory: Path) -> None:
        file = directory / "tokenizer_config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self._directory = directory
        self._source = _source(directory, config)
        self._variables = {
            name: token for name in _SPECIAL if (token := _text(config.get(name))) is not None
        }
        self._compiled: Any = None

    @property
    def exists(self) -> bool:
        """Whether the model came with one."""
        return self._source is not None

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The conversation as text that ends where the assistant begins to speak."""
        if self._source is None:
            raise InvalidRequest(
                f"the model in {self._directory} has no chat template: send a prompt, not messages"
            )
        import jinja2

        if self._compiled is None:
            self._compiled = _environment().from_string(self._source)
        try:
            text: str = self._compiled.render(
                messages=list(messages), add_generation_prompt=True, **self._variables
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise InvalidRequest(f"the chat template refused these messages: {error}") from error
        return text


def _source(directory: Path, config: dict[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _text(token: object) -> str | None:
    """Special tokens are written as text, or as an object that holds it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _environment() -> Any:
    """What transformers gives templates, name for name."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
