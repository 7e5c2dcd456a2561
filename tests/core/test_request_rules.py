"""R8, R9 and what else a request may and may not say."""

from __future__ import annotations

from typing import Any

import pytest

from sage_llm_ops import (
    ParallelismConfig,
    ParallelismType,
    RequestMetadata,
    RequestPriority,
    RequestStatus,
)
from sage_llm_ops.core.requests import as_priority, as_request
from sage_llm_ops.engines.tokenizers import ByteTokenizer
from sage_llm_ops.types.errors import DuplicateRequest, InvalidRequest, UnknownName
from sage_llm_ops.types.requests import Request
from tests.core.fleets import held, request, simulated


def made(**fields: Any) -> Request:
    return as_request(RequestMetadata(**{"prompt": "Hello", **fields}), "m", ByteTokenizer())


def test_an_id_is_made_where_none_is_given() -> None:
    one, other = made(), made()
    assert one.id != other.id
    assert one.id.startswith("req-")
    assert made(request_id="mine").id == "mine"


@pytest.mark.parametrize("wrong", ["", 7, b"r", ...], ids=repr)
def test_an_id_must_be_a_string_that_is_not_empty(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be a non-empty string, or left out"):
        made(request_id=wrong)


async def test_an_id_in_use_or_remembered_is_refused() -> None:
    async with held("w0") as (manager, fleet):
        await manager.submit_request(request("r"))
        with pytest.raises(DuplicateRequest, match=r"'r'.*in use by a running request"):
            await manager.submit_request(request("r"))
        fleet["w0"].wait_for("r")
        fleet["w0"].end("r")
        await manager.wait_for_result("r", 10.0)
        with pytest.raises(DuplicateRequest, match=r"'r'.*ended a moment ago"):
            await manager.submit_request(request("r"))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("normal", RequestPriority.NORMAL),
        ("High", RequestPriority.HIGH),
        (RequestPriority.CRITICAL, RequestPriority.CRITICAL),
        (4, RequestPriority.BACKGROUND),
    ],
    ids=repr,
)
def test_priority_by_name_in_any_case_by_member_or_number(given: Any, found: Any) -> None:
    assert as_priority(given) is found
    assert made(priority=given).priority == found


@pytest.mark.parametrize("wrong", ["urgent", 5, -1, None], ids=repr)
def test_an_unknown_priority_lists_the_known(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="CRITICAL, HIGH, NORMAL, LOW, BACKGROUND"):
        made(priority=wrong)


def test_enums_as_the_documents_use_them() -> None:
    assert RequestPriority["NORMAL"] < RequestPriority.LOW
    assert RequestStatus.COMPLETED in ["completed", "failed"]
    kinds = ParallelismConfig(True, ["TP", "pp", "Hybrid"]).supported_strategies
    assert kinds == [ParallelismType.TP, ParallelismType.PP, ParallelismType.HYBRID]
    with pytest.raises(UnknownName, match="'XP'"):
        ParallelismConfig(supported_strategies=["XP"])


def test_one_of_three_ways_to_say_the_prompt() -> None:
    chat = [{"role": "user", "content": "Hi"}]
    assert made().n_prompt == 5
    assert made(prompt="用简单的语言").n_prompt == 18
    assert made(prompt="", prompt_token_ids=[1, 2, 3]).tokens == b"\1\0\0\0\2\0\0\0\3\0\0\0"
    assert made(prompt="", messages=chat).n_prompt > 2
    for wrong, said in (
        ({"prompt": ""}, "none of them"),
        ({"messages": chat}, "prompt and messages"),
    ):
        with pytest.raises(InvalidRequest, match=f"exactly one of .*got {said}"):
            made(**wrong)
    with pytest.raises(InvalidRequest, match="at least one"):
        made(prompt="", prompt_token_ids=[])


@pytest.mark.parametrize(
    "wrong",
    [
        [1, -1],
        [2**31],
        [[1], [2]],
        ["a"],
        [2**70],
        [1.5],
        [1, True],
        [1, None],
        7,
        "abc",
        bytearray(b"\1\0\0\0"),
    ],
    ids=repr,
)
def test_token_ids_are_numbers_in_range(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="prompt_token_ids"):
        made(prompt="", prompt_token_ids=wrong)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("prompt", 5),
        ("prompt", b"Hello"),
        ("user_id", 7),
        ("task", "translate"),
        ("slo_deadline_ms", 0),
        ("slo_deadline_ms", float("nan")),
        ("timeout_ms", -1),
        ("timeout_ms", "soon"),
        ("max_tokens", 0),
        ("max_tokens", "many"),
        ("max_tokens", 1.5),
    ],
)
def test_a_wrong_value_names_field_and_value(field: str, wrong: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        made(**{field: wrong})
    assert field in str(refused.value)


async def test_a_prompt_that_is_no_string_is_refused_at_the_door() -> None:
    async with simulated() as manager:
        with pytest.raises(InvalidRequest, match="prompt=5 must be a string"):
            await manager.submit_request(RequestMetadata(prompt=5))  # type: ignore[arg-type]


async def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"'max_token'.*'max_tokens'"):
        RequestMetadata(max_token=5)  # type: ignore[call-arg]
    async with simulated() as manager:
        with pytest.raises(UnknownName, match=r"'priorty'.*'priority'"):
            await manager.process_request("Hello", priorty="HIGH")


async def test_a_whole_request_takes_nothing_beside_it() -> None:
    async with simulated() as manager:
        for beside in ({"sampling_params": {}}, {"model_name": "sim-model"}, {"max_tokens": 3}):
            with pytest.raises(InvalidRequest, match="comes alone"):
                await manager.process_request(request(), **beside)  # type: ignore[arg-type]


async def test_a_long_prompt_and_a_chat_are_tokenised_off_the_loop() -> None:
    async with simulated() as manager:
        long = await manager.process_request("x" * 5000, {"max_tokens": 1})
        assert long.usage.prompt_tokens == 5000
        chat = [{"role": "user", "content": "Hi"}]
        assert (await manager.process_request("", {"max_tokens": 1}, messages=chat)).text


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_a_trace_goes_to_the_worker_and_into_the_ledger() -> None:
    async with held("w0") as (manager, fleet):
        await manager.submit_request(request("r", trace=TRACE))
        assert fleet["w0"].wait_for("r").trace == TRACE
        fleet["w0"].end("r")
        await manager.wait_for_result("r", 10.0)
        await manager.submit_request(request("plain"))
        assert fleet["w0"].wait_for("plain").trace == ""
        lines = manager.control.pipeline.ledger.about("r")
        assert [(entry.kind, entry.trace) for entry in lines[1:]] == [
            ("place", TRACE),
            ("end", TRACE),
        ]


@pytest.mark.parametrize(
    "wrong",
    [
        "4bf92f3577b34da6a3ce929d0e0e4736",
        TRACE.upper(),
        TRACE + "-more",
        "ff" + TRACE[2:],
        "00-" + "0" * 32 + TRACE[35:],
        TRACE[:36] + "0" * 16 + "-01",
        7,
    ],
    ids=repr,
)
def test_a_trace_that_is_none_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"trace=.* is no W3C traceparent; it reads VERSION"):
        made(trace=wrong)
