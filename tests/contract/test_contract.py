"""One contract for every engine, through the whole path from `ControlPlane.submit` to the text.

The order of the tests is part of it: the last two kill the worker and stop the plane.
"""

from __future__ import annotations

from typing import Any

import pytest

from sage_llm_ops import RequestMetadata
from sage_llm_ops.engines.tokenizers import TextTokenizer
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.types.errors import InvalidRequest, NoInstance, RequestCancelled, RequestFailed
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.results import RequestResult
from tests.contract.subjects import LENGTH, MODEL, Subject

PROMPT = "the water of the world is"
WAIT_S = 120.0


def submit(subject: Subject, prompt: str = PROMPT, n: int = 16, **fields: Any) -> RequestHandle:
    """Greedy where nothing else is said, and of a fixed length where the engine lets us."""
    sampling = {"temperature": 0.0, **fields.pop("sampling", {})}
    if "ignore_eos" in subject.can.sampling:
        sampling.setdefault("ignore_eos", True)
    given = {} if "messages" in fields or "prompt_token_ids" in fields else {"prompt": prompt}
    request = RequestMetadata(max_tokens=n, sampling_params=sampling, **given, **fields)
    return subject.plane.submit(request)


def run(subject: Subject, *args: Any, **fields: Any) -> RequestResult:
    return submit(subject, *args, **fields).result(WAIT_S)


# -- what comes back --------------------------------------------------------------------------


def test_generate_and_usage(subject: Subject) -> None:
    result = run(subject)
    assert result.text and result.finish_reason == "length"
    assert (result.instance_id, result.attempts) == ("w0", 1)
    assert result.usage.completion_tokens == 16 and not result.usage.estimated
    tokenizer = subject.plane.tokenizer(MODEL)
    assert tokenizer.decode(result.token_ids) == result.text
    assert subject.text == isinstance(tokenizer, TextTokenizer)
    if not subject.text:
        assert len(result.token_ids) == 16
        assert result.usage.prompt_tokens == len(tokenizer.encode(PROMPT))
    timings = result.timings
    assert timings.ttft_s is not None and timings.latency_s is not None
    assert 0.0 < timings.ttft_s <= timings.latency_s


def test_greedy_repeats_itself_alone_and_in_company(subject: Subject) -> None:
    alone = [run(subject, f"{PROMPT} {number}").token_ids for number in range(4)]
    company = [submit(subject, f"{PROMPT} {number % 4}") for number in range(12)]
    assert [handle.result(WAIT_S).token_ids for handle in company] == alone * 3


def test_chat(subject: Subject) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    result = run(subject, messages=messages)
    assert result.text and result.usage.completion_tokens == 16
    assert result.text != run(subject).text, "a conversation is no plain prompt"
    assert run(subject, messages=messages).text == result.text


def test_stream(subject: Subject) -> None:
    """Every offset once, which `RequestHandle.push` insists on, and never half a character."""
    handle = submit(subject, "狐狸 naïve 🦊", n=48)
    decoder = subject.plane.tokenizer(MODEL).decoder()
    ids: list[int] = []
    text = ""
    for piece in handle.iter(WAIT_S):
        ids += piece
        fresh = decoder.push(piece)
        text += fresh
        assert not fresh.endswith("\ufffd")
    text += decoder.flush()
    result = handle.result(0.0)
    assert tuple(ids) == result.token_ids and text == result.text


def test_token_ids_as_prompt(subject: Subject) -> None:
    if subject.text:
        pytest.skip("nobody here knows the model's tokens")
    ids = subject.plane.tokenizer(MODEL).encode(PROMPT)
    assert run(subject, prompt_token_ids=ids).token_ids == run(subject).token_ids


def test_embed(subject: Subject) -> None:
    ask = RequestMetadata(prompt=PROMPT, task="embed")
    if "embed" not in subject.can.tasks:
        with pytest.raises(NoInstance, match="'embed'"):
            subject.plane.submit(ask).result(WAIT_S)
        return
    first, again = (subject.plane.submit(ask).result(WAIT_S) for _ in range(2))
    other = subject.plane.submit(RequestMetadata(prompt="else", task="embed")).result(WAIT_S)
    assert first.embedding and first.embedding == again.embedding != other.embedding
    assert first.usage.completion_tokens == 0


# -- what it claims to honour -----------------------------------------------------------------

HOT = {"temperature": 2.0, "seed": 1}


@pytest.mark.parametrize("name", SamplingParams.__struct_fields__)
def test_claimed_is_honoured_and_unclaimed_is_refused(subject: Subject, name: str) -> None:
    if name in subject.can.ignores:
        with pytest.raises(InvalidRequest, match=f"{name}=.* is not honoured by engine"):
            submit(subject, sampling={name: EXAMPLES[name]})
        return
    HONOURED[name](subject)


EXAMPLES: dict[str, Any] = {
    "min_tokens": 2,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.5,
    "presence_penalty": 1.0,
    "frequency_penalty": 1.0,
    "repetition_penalty": 1.5,
    "seed": 3,
    "stop": ["x"],
    "stop_token_ids": [3],
    "ignore_eos": True,
}


def _text(subject: Subject, n: int = 16, **sampling: Any) -> str:
    return run(subject, n=n, sampling=sampling).text


def _max_tokens(subject: Subject) -> None:
    assert run(subject, n=3).usage.completion_tokens == 3


def _temperature(subject: Subject) -> None:
    differs = _text(subject, temperature=2.0) != _text(subject)
    assert differs != subject.certain


def _seed(subject: Subject) -> None:
    assert _text(subject, **HOT) == _text(subject, **HOT)
    assert (_text(subject, **HOT) != _text(subject, **{**HOT, "seed": 2})) != subject.certain


def _narrow(**sampling: Any) -> Any:
    """So narrow that only the greedy choice is left."""

    def check(subject: Subject) -> None:
        assert _text(subject, **HOT, **sampling) == _text(subject)

    return check


def _penalty(**sampling: Any) -> Any:
    """Fewer repetitions, so another text than the greedy one."""

    def check(subject: Subject) -> None:
        assert (_text(subject, 128, **sampling) != _text(subject, 128)) != subject.certain

    return check


def _stop(subject: Subject) -> None:
    plain = _text(subject)
    word = plain.strip().split()[1]
    result = run(subject, sampling={"stop": [word]})
    assert (result.finish_reason, result.text) == ("stop", plain[: plain.index(word)])


def _stop_tokens(subject: Subject) -> None:
    if subject.text:
        pytest.skip("nobody here knows the model's tokens")
    plain = run(subject).token_ids
    result = run(subject, sampling={"stop_token_ids": [plain[3]]})
    assert result.finish_reason == "stop"
    assert len(result.token_ids) in (plain.index(plain[3]), plain.index(plain[3]) + 1)


def _min_tokens(subject: Subject) -> None:
    if subject.text:
        pytest.skip("nobody here knows the model's tokens")
    first = run(subject).token_ids[0]
    result = run(subject, sampling={"stop_token_ids": [first], "min_tokens": 5})
    assert len(result.token_ids) >= 5


def _ignore_eos(subject: Subject) -> None:
    """The end of the sequence is in reach at any time when sampling is hot enough."""
    hot = {"temperature": 2.0, "seed": 1, "ignore_eos": True}
    assert run(subject, n=256, sampling=hot).usage.completion_tokens == 256


def _special(subject: Subject) -> None:
    shown = _text(subject, skip_special_tokens=False)
    assert shown.replace("<s>", "") or subject.certain


HONOURED: dict[str, Any] = {
    "max_tokens": _max_tokens,
    "min_tokens": _min_tokens,
    "temperature": _temperature,
    "top_p": _narrow(top_p=1e-6),
    "top_k": _narrow(top_k=1),
    "min_p": _narrow(min_p=1.0),
    "presence_penalty": _penalty(presence_penalty=2.0),
    "frequency_penalty": _penalty(frequency_penalty=2.0),
    "repetition_penalty": _penalty(repetition_penalty=3.0),
    "seed": _seed,
    "stop": _stop,
    "stop_token_ids": _stop_tokens,
    "ignore_eos": _ignore_eos,
    "skip_special_tokens": _special,
}


# -- what is wrong ----------------------------------------------------------------------------


def test_too_long_is_refused_and_harms_nobody(subject: Subject) -> None:
    assert subject.can.max_model_len == LENGTH
    with pytest.raises(InvalidRequest, match=str(LENGTH)):
        run(subject, "long " * 2 * LENGTH)
    with pytest.raises(InvalidRequest):
        run(subject, n=LENGTH + 1)
    assert run(subject).text


@pytest.mark.parametrize(
    "sampling", [{"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": 0}, {"nonsense": 1}]
)
def test_bad_parameters_are_refused(subject: Subject, sampling: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(sampling))):
        submit(subject, sampling=sampling)


def test_a_token_that_is_none_is_refused(subject: Subject) -> None:
    if subject.text or subject.certain:
        pytest.skip("no vocabulary")
    with pytest.raises(InvalidRequest, match="999999"):
        run(subject, prompt_token_ids=[5, 999999])
    assert run(subject).text


# -- its life ---------------------------------------------------------------------------------


LONG = 600
"""Tokens that take more than a second: a busy machine may tell late of the first one."""


def _first_token(handle: RequestHandle) -> None:
    assert next(iter(handle.iter(WAIT_S)))


def _is_free(subject: Subject) -> bool:
    hands = subject.plane.pipeline.hands
    return hands.wait_empty(WorkerId("w0"), WAIT_S) and not hands.handles


def _partial(handle: RequestHandle) -> tuple[int, ...] | None:
    """What a cancelled one had made; None where it completed."""
    try:
        handle.result(WAIT_S)
    except RequestCancelled as cancelled:
        return cancelled.partial
    return None


def test_cancel_frees_the_place(subject: Subject) -> None:
    """On a busy machine some may be done before they are told; the last in the queue, told at once, is
    not."""
    long = [submit(subject, f"{PROMPT} {number}", n=900) for number in range(48)]
    last = subject.plane.cancel(long[-1].request_id)
    _first_token(long[0])
    asked = [*(subject.plane.cancel(handle.request_id) for handle in long[:-1]), last]
    ends = [_partial(handle) for handle in long]
    assert asked[-1] and ends[-1] is not None
    for handle, running, partial in zip(long, asked, ends, strict=True):
        if partial is None:
            assert handle.outcome().finish_reason in ("length", "stop")
        else:
            assert running and len(partial) == len(handle.tokens)
    assert run(subject).text
    assert _is_free(subject)


def test_health(subject: Subject) -> None:
    assert subject.plane.instances["w0"].health_status == "healthy"
    about = subject.plane.worker("w0").describe()
    assert (about["state"], about["incarnation"]) == ("up", 1)


def test_killed_and_back(subject: Subject) -> None:
    """Tokens go on where they stopped; where only text is known, nothing can: a typed end."""
    if not subject.killable:
        pytest.skip("set SAGE_LLM_OPS_KILLS: it takes half a minute to come back")
    whole = run(subject, n=LONG)
    kills = 1
    while not _killed_in_the_middle(subject, whole):
        kills += 1
        assert kills <= 5, "no kill hit a running request"
    test_generate_and_usage(subject)
    assert subject.plane.worker("w0").incarnation == kills + 1


def _killed_in_the_middle(subject: Subject, whole: RequestResult) -> bool:
    """False where the whole answer was on its way already when the worker died: that may be."""
    worker, supervisor = subject.plane.worker("w0"), subject.plane.supervisor
    before = worker.incarnation
    handle = submit(subject, n=LONG)
    _first_token(handle)
    subject.kill()
    subject.revive()
    hit = True
    try:
        result = handle.result(WAIT_S)
        assert result.token_ids == whole.token_ids
        hit = result.attempts > 1
        assert not (hit and subject.text)
    except RequestFailed as failed:
        assert subject.text and "tokenizer" in str(failed)
        partial = subject.plane.tokenizer(MODEL).decode(failed.partial)
        assert partial and whole.text.startswith(partial)
    with supervisor.changed:
        assert supervisor.changed.wait_for(
            lambda: worker.incarnation > before and supervisor.workers[worker.id].up, WAIT_S
        )
    return hit


def test_stop_lets_everything_end(subject: Subject) -> None:
    """The last test: it stops the plane."""
    handles = [submit(subject, f"{PROMPT} {number}", n=64) for number in range(8)]
    assert subject.plane.stop(60.0), "the stop had to fail something"
    assert {handle.result(0.0).usage.completion_tokens for handle in handles} == {64}
    assert subject.plane.worker("w0").describe()["state"] == "down"
