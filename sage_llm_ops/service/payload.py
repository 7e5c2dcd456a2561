"""What `ControlPlaneVLLMService.process` reads.

| key | meaning |
|---|---|
| `task` | `generate` (default), `chat`, `embed` |
| `inputs` | `generate`, `embed`: text or token ids. `chat`: messages or text. Or a list of these |
| `model` | which of the models served; may be left out where there is one |
| `priority` | name in any case, or number: CRITICAL 0, HIGH 1, NORMAL 2 (default), LOW 3, BACKGROUND 4 |
| `slo_deadline_ms` | an objective: a miss is counted |
| `timeout_ms` | a limit: a request that passes it fails |
| `max_tokens` | of each answer (512) |
| `sampling_params` | `SamplingParams`, a dict of its fields, or vLLM's object |
| `request_id` | of several inputs: `ID-0`, `ID-1`, ... |
| `tenant` | whose it is |
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sage_llm_ops.core.requests import OURS, as_priority, new_id
from sage_llm_ops.types.errors import InvalidRequest
from sage_llm_ops.types.requests import RequestMetadata, Task

KEYS = (
    "task",
    "inputs",
    "model",
    "priority",
    "slo_deadline_ms",
    "timeout_ms",
    "max_tokens",
    "sampling_params",
    "request_id",
    "tenant",
)
TASKS = ("generate", "chat", "embed")
_FIELDS = {"model": "model_name", "tenant": "user_id"}
"""Keys that `RequestMetadata` calls otherwise; of the rest, these are passed on as they are."""
_SAME = ("slo_deadline_ms", "timeout_ms", "max_tokens", "sampling_params")


@dataclass(frozen=True, slots=True)
class Batch:
    """The requests of one payload."""

    requests: list[RequestMetadata]
    single: bool
    """One input that was not in a list: its answer is not, either."""


def read_payload(payload: Mapping[str, Any]) -> Batch:
    """The requests it means; `InvalidRequest` for a key or a value that is none."""
    _check_keys(payload)
    task = payload.get("task", "generate")
    if task not in TASKS:
        raise InvalidRequest(f"task={task!r} is not one of {', '.join(TASKS)}{_near(task, TASKS)}")
    _check_max_tokens(payload, task)
    fields: dict[str, Any] = {name: payload[name] for name in _SAME if name in payload}
    fields |= {field: payload[key] for key, field in _FIELDS.items() if key in payload}
    if "priority" in payload:
        fields["priority"] = as_priority(payload["priority"])
    if task == "embed":
        fields["task"] = Task.EMBED
    inputs, single = _inputs(payload, task)
    given = payload.get("request_id")
    identity = new_id() if given is None else given
    shared = RequestMetadata(request_id=identity, **fields)
    if single:
        return Batch([dataclasses.replace(shared, **inputs[0])], single)
    if given is not None and not (isinstance(given, str) and given):
        raise InvalidRequest(f"request_id={given!r} must be a non-empty string, or left out")
    return Batch(
        [
            dataclasses.replace(shared, request_id=f"{identity}-{number}", **one)
            for number, one in enumerate(inputs)
        ],
        single,
    )


def _check_keys(payload: Any) -> None:
    if not isinstance(payload, Mapping):
        raise InvalidRequest(f"the payload is {payload!r}; give a dict with `inputs` in it")
    for key in payload:
        if key in KEYS:
            continue
        if key in OURS:
            raise InvalidRequest(f"payload key {key!r}: write it into `sampling_params`")
        raise InvalidRequest(
            f"payload key {key!r} is unknown{_near(key, KEYS)}; known: {', '.join(KEYS)}"
        )


def _near(name: object, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(name), known, n=2, cutoff=0.5)
    return f": did you mean {' or '.join(map(repr, near))}?" if near else ""


def _check_max_tokens(payload: Mapping[str, Any], task: str) -> None:
    """Said twice, one of the two would not count; said about an embedding, none."""
    if "max_tokens" not in payload:
        return
    if task == "embed":
        raise InvalidRequest("max_tokens means nothing to task 'embed'; leave it out")
    sampling = payload.get("sampling_params")
    if sampling is not None and (not isinstance(sampling, Mapping) or "max_tokens" in sampling):
        raise InvalidRequest(
            f"max_tokens={payload['max_tokens']!r} stands beside sampling_params with a max_tokens "
            "of their own; say it in one place"
        )


def _inputs(payload: Mapping[str, Any], task: str) -> tuple[list[dict[str, Any]], bool]:
    """Each input as the field of `RequestMetadata` that takes it."""
    given = payload.get("inputs")
    one = _one(given, task)
    if one is not None:
        return [one], True
    if not isinstance(given, (list, tuple)) or not given:
        said = "nothing" if given is None else repr(given)
        raise InvalidRequest(f"inputs: {said} given; task {task!r} takes {_TAKES[task]}")
    found = []
    for number, value in enumerate(given):
        several = _one(value, task)
        if several is None:
            raise InvalidRequest(f"inputs[{number}]={value!r}: task {task!r} takes {_TAKES[task]}")
        found.append(several)
    return found, False


_TAKES = {
    "generate": "text, token ids, or a list of these that is not empty",
    "chat": "a list of messages (dicts with a `role`), text, or a list of these that is not empty",
    "embed": "text, token ids, or a list of these that is not empty",
}


def _one(value: Any, task: str) -> dict[str, Any] | None:
    """One input; None where it is none."""
    if isinstance(value, str):
        if task == "chat":
            return {"messages": [{"role": "user", "content": value}]}
        return {"prompt": value}
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if task == "chat":
        turns = all(isinstance(turn, Mapping) and "role" in turn for turn in value)
        return {"messages": [dict(turn) for turn in value]} if turns else None
    ids = all(isinstance(token, int) for token in value)
    return {"prompt_token_ids": list(value)} if ids else None
