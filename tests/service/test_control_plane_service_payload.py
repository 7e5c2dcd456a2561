"""What a payload may say, and how it is told what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from sage_llm_ops import SamplingParams
from sage_llm_ops.service.payload import read_payload
from sage_llm_ops.types.errors import InvalidRequest
from sage_llm_ops.types.requests import RequestPriority, Task


def test_everything_at_once() -> None:
    batch = read_payload(
        {
            "task": "generate",
            "inputs": "Hello",
            "model": "m",
            "priority": "low",
            "slo_deadline_ms": 100,
            "timeout_ms": 200,
            "sampling_params": {"temperature": 0.0, "max_tokens": 3},
            "request_id": "r",
            "tenant": "ada",
        }
    )
    (request,) = batch.requests
    assert batch.single
    assert (request.request_id, request.prompt, request.model_name) == ("r", "Hello", "m")
    assert (request.priority, request.user_id) == (RequestPriority.LOW, "ada")
    assert (request.slo_deadline_ms, request.timeout_ms) == (100, 200)


@pytest.mark.parametrize(
    ("task", "inputs", "field", "count"),
    [
        ("generate", "a", "prompt", None),
        ("generate", ["a", "b"], "prompt", 2),
        ("generate", ("a",), "prompt", 1),
        ("generate", [1, 2], "prompt_token_ids", None),
        ("generate", [[1, 2], [3]], "prompt_token_ids", 2),
        ("generate", [[1], "b"], "prompt", 2),
        ("chat", "a", "messages", None),
        ("chat", [{"role": "user", "content": "a"}], "messages", None),
        ("chat", [[{"role": "user", "content": "a"}]], "messages", 1),
        ("embed", ["a", "b"], "prompt", 2),
    ],
)
def test_inputs(task: str, inputs: Any, field: str, count: int | None) -> None:
    batch = read_payload({"task": task, "inputs": inputs})
    assert (batch.single, len(batch.requests)) == (count is None, count or 1)
    assert getattr(batch.requests[-1], field)
    assert len({request.request_id for request in batch.requests}) == len(batch.requests)
    assert (batch.requests[0].task is Task.EMBED) == (task == "embed")


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"inputs": "a", "priorty": "HIGH"}, "'priorty' is unknown: did you mean 'priority'?"),
        ({"inputs": "a", "temperature": 0}, "'temperature': write it into `sampling_params`"),
        ({"inputs": "a", "priority": "URGENT"}, "'URGENT' is not one of CRITICAL, HIGH, NORMAL"),
        ({"inputs": "a", "priority": 9}, "priority=9 is not one of"),
        ({"inputs": "a", "task": "genrate"}, "'genrate' is not one of generate, chat, embed: did"),
        ({}, "inputs: nothing given; task 'generate' takes text, token ids"),
        ({"inputs": []}, "inputs: [] given"),
        ({"inputs": ["a", 3.5]}, "inputs[1]=3.5: task 'generate' takes"),
        ({"inputs": [[1, "a"]]}, "inputs[0]=[1, 'a']"),
        ({"inputs": [1, 2], "task": "chat"}, "inputs[0]=1: task 'chat' takes a list of messages"),
        ({"inputs": [{"content": "a"}], "task": "chat"}, "dicts with a `role`"),
        ({"inputs": [{"role": "user", "content": "a"}]}, "inputs[0]={'role'"),
        ({"inputs": ["a"], "request_id": 7}, "request_id=7 must be a non-empty string"),
        ({"inputs": "a", "task": "embed", "max_tokens": 3}, "means nothing to task 'embed'"),
        (
            {"inputs": "a", "max_tokens": 3, "sampling_params": SamplingParams(max_tokens=4)},
            "say it in one place",
        ),
        (
            {"inputs": "a", "max_tokens": 3, "sampling_params": {"max_tokens": 4}},
            "say it in one place",
        ),
        ("Hello", "the payload is 'Hello'; give a dict with `inputs`"),
    ],
)
def test_what_is_refused(payload: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_payload(payload)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model", "other", "no instance serves model 'other'; models here: ['m']"),
        ("timeout_ms", -1, "timeout_ms=-1 must be a number above 0"),
        ("sampling_params", {"top_q": 1}, "sampling parameter top_q=1 is not honoured"),
        ("max_tokens", 0, "max_tokens=0 must be at least 1"),
        ("tenant", 3, "user_id=3 must be a string"),
    ],
)
def test_what_is_wrong_with_all_is_raised_before_anything_runs(
    field: str, value: Any, words: str
) -> None:
    from sage_llm_ops import ControlPlaneVLLMService
    from sage_llm_ops.types.errors import RequestError

    config = {"instances": [{"instance_id": "w", "engine": "sim", "model_name": "m"}]}
    with ControlPlaneVLLMService(config) as llm:
        with pytest.raises(RequestError) as refused:
            llm.generate(["a", "b"], **{field: value})
        assert words in str(refused.value)
        assert llm.manager.get_metrics().total_requests == 0
