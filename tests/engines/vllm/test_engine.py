"""VllmEngine over the real vLLM and the tiny model, stepped in this process."""

import os
from collections.abc import Iterator

import pytest

from sage_llm_ops.engines.base import BaseEngine
from sage_llm_ops.engines.registry import make_engine
from sage_llm_ops.engines.tokenizers import tokenizer_for
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.tiny_model import EOS, VOCAB, tiny_model
from sage_llm_ops.types.errors import EngineStartError, InvalidRequest
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Tokens

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

for name, value in (
    ("OMP_NUM_THREADS", "1"),
    ("VLLM_NO_USAGE_STATS", "1"),
    ("HF_HUB_OFFLINE", "1"),
    ("VLLM_LOGGING_LEVEL", "ERROR"),
):
    os.environ.setdefault(name, value)

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def engine() -> Iterator[BaseEngine]:
    engine = make_engine(
        "vllm", {"model": str(tiny_model()), "max_model_len": 256, "served_model_name": "tiny"}
    )
    engine.start()
    yield engine
    engine.stop()


def node(
    number: int,
    prompt: list[int],
    sampling: SamplingParams = GREEDY,
    *,
    offset: int = 0,
    task: str = "generate",
) -> PlanNode:
    return PlanNode(
        NodeId(number),
        RequestId("same"),
        "w",
        1,
        tokens=pack(prompt),
        n_tokens=len(prompt),
        offset=offset,
        sampling=sampling,
        task=task,
    )


def run(engine: BaseEngine, *nodes: PlanNode) -> dict[int, list[EngineEvent]]:
    events: dict[int, list[EngineEvent]] = {each.id: [] for each in nodes}
    for each in nodes:
        engine.submit(each)
    while engine.busy:
        for event in engine.step():
            events[event.node].append(event)
    return events


def ids(events: list[EngineEvent]) -> list[int]:
    return [token for event in events if isinstance(event, Tokens) for token in event.ids]


def prompt(salt: int, n: int = 20) -> list[int]:
    return [10 + (salt * 977 + k * 7 + k * k % 13) % (VOCAB - 20) for k in range(n)]


def test_capabilities_are_those_of_the_engine_started(engine: BaseEngine) -> None:
    can = engine.capabilities
    assert can.tasks == ("generate",)
    assert (can.max_model_len, can.block_size, can.max_num_seqs) == (256, 32, 32)
    assert can.kv_blocks == (64 << 20) // (32 * 4 * 2 * 2 * 64 * 4)
    assert can.prefix_cache and can.chat_template and "seed" in can.sampling
    assert engine.model == "tiny" and engine.version
    assert engine.tokenizer_hash == tokenizer_for("vllm", str(tiny_model())).hash


def test_a_batch_with_offsets_and_usage(engine: BaseEngine) -> None:
    nodes = [node(100 + k, prompt(k), offset=k) for k in range(8)]
    events = run(engine, *nodes)
    for each in nodes:
        got = events[each.id]
        assert isinstance(got[0], Accepted)
        assert got[-1] == Done(each.id, "length", 20, 12)
        place = each.offset
        for event in got[1:-1]:
            assert isinstance(event, Tokens) and event.offset == place
            place += len(event.ids)
        assert place == each.offset + 12
    assert len({tuple(ids(got)) for got in events.values()}) == 8


def test_prefix_cache_is_reported(engine: BaseEngine) -> None:
    first, second = (run(engine, node(n, prompt(50, 100)))[n] for n in (200, 201))
    assert ids(first) == ids(second)
    assert isinstance(first[-1], Done) and first[-1].cached == 0
    assert isinstance(second[-1], Done) and second[-1].cached == 96
    tokens = next(event for event in second if isinstance(event, Tokens))
    assert tokens.cached == 96


def test_a_continued_attempt_is_exact(engine: BaseEngine) -> None:
    whole = ids(run(engine, node(300, prompt(3)))[300])
    rest = SamplingParams(max_tokens=7, temperature=0.0)
    again = run(engine, node(301, prompt(3) + whole[:5], rest, offset=5))[301]
    assert ids(again) == whole[5:]


def test_greedy_output_wanders(engine: BaseEngine) -> None:
    """Else every test that compares tokens would compare nothing."""
    out = ids(
        run(engine, node(310, prompt(9), SamplingParams(max_tokens=100, temperature=0.0)))[310]
    )
    assert len(out) == 100 and len(set(out)) > 50 and EOS not in out


def test_sampling_parameters_reach_it(engine: BaseEngine) -> None:
    seeded = SamplingParams(max_tokens=8, temperature=1.0, seed=5)
    other = SamplingParams(max_tokens=8, temperature=1.0, seed=6)
    events = run(
        engine,
        node(400, prompt(4), seeded),
        node(401, prompt(4), seeded),
        node(402, prompt(4), other),
    )
    assert ids(events[400]) == ids(events[401]) != ids(events[402])
    greedy = ids(run(engine, node(403, prompt(4)))[403])
    stop = SamplingParams(max_tokens=12, temperature=0.0, stop_token_ids=(greedy[3],))
    stopped = run(engine, node(404, prompt(4), stop))[404]
    assert ids(stopped) == greedy[: greedy.index(greedy[3]) + 1]
    assert isinstance(stopped[-1], Done) and stopped[-1].finish_reason == "stop"


def test_stop_strings(engine: BaseEngine) -> None:
    text = engine.generate(prompt(4), GREEDY).text
    word = text[4:6]
    result = engine.generate(
        prompt(4), SamplingParams(max_tokens=12, temperature=0.0, stop=(word,))
    )
    assert result.finish_reason == "stop"
    assert word in result.text and len(result.token_ids) < 12


def test_cancel(engine: BaseEngine) -> None:
    long = SamplingParams(max_tokens=200, temperature=0.0)
    engine.submit(node(500, prompt(5), long))
    engine.submit(node(501, prompt(6), GREEDY))
    events: list[EngineEvent] = []
    while len(ids([event for event in events if event.node == 500])) < 5:
        events += engine.step()
    engine.cancel(NodeId(500))
    engine.cancel(NodeId(500))
    engine.cancel(NodeId(12345))
    while engine.busy:
        events += engine.step()
    ends = [event for event in events if isinstance(event, Done) and event.node == 500]
    assert len(ends) == 1 and ends[0].finish_reason == "cancelled"
    assert ends[0].n_tokens == len(ids([event for event in events if event.node == 500]))
    assert [event for event in events if event.node == 501][-1] == Done(
        NodeId(501), "length", 20, 12
    )
    assert engine.stats().kv_usage == 0.0, "the cancelled node keeps its blocks"


def test_cancel_at_every_moment_ends_once(engine: BaseEngine) -> None:
    """Also in the step that ends it by itself, and after."""
    three = SamplingParams(max_tokens=3, temperature=0.0)
    for steps in range(7):
        number = NodeId(600 + steps)
        engine.submit(node(number, prompt(7), three))
        events: list[EngineEvent] = []
        for _ in range(steps):
            events += engine.step()
        engine.cancel(number)
        while engine.busy:
            events += engine.step()
        assert sum(isinstance(event, Done) for event in events) == 1, steps


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "the prompt is empty"),
        ([5, VOCAB], f"token id {VOCAB} is outside the vocabulary of {VOCAB}"),
        ([5, -1], "token id -1 is outside"),
        ([5] * 256, "the prompt has 256 tokens, this worker takes 255"),
    ],
)
def test_what_cannot_be_run_fails_and_the_engine_lives(
    engine: BaseEngine, bad: list[int], words: str
) -> None:
    events = run(engine, node(700, bad), node(701, prompt(1)))
    failed = events[700][-1]
    assert isinstance(failed, Failed) and failed.code == "invalid_request"
    assert words in failed.message
    assert isinstance(events[701][-1], Done)


def test_what_vllm_itself_refuses(engine: BaseEngine) -> None:
    wrong = SamplingParams(max_tokens=4, temperature=-1.0)
    events = run(engine, node(710, prompt(1), wrong), node(711, prompt(1)))
    failed = events[710][-1]
    assert isinstance(failed, Failed) and "vLLM refused it" in failed.message
    assert isinstance(events[711][-1], Done)


def test_other_tasks_and_kinds_are_refused(engine: BaseEngine) -> None:
    failed = run(engine, node(720, prompt(1), task="embed"))[720][-1]
    assert isinstance(failed, Failed) and "offers generate" in failed.message
    odd = node(721, prompt(1))
    odd.kind = "prefill"
    failed = run(engine, odd)[721][-1]
    assert isinstance(failed, Failed) and "node kind 'prefill'" in failed.message


def test_fills_the_context_and_stops_there(engine: BaseEngine) -> None:
    done = run(engine, node(730, prompt(2, 250), SamplingParams(max_tokens=50)))[730][-1]
    assert done == Done(NodeId(730), "length", 250, 6)


def test_stats_while_running(engine: BaseEngine) -> None:
    for k in range(40):
        engine.submit(node(800 + k, prompt(k)))
    engine.step()
    engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (32, 8) and 0 < stats.kv_usage < 1
    while engine.busy:
        engine.step()


def test_text_and_chat(engine: BaseEngine) -> None:
    result = engine.generate("Hello world", GREEDY)
    assert result.text == engine.tokenizer.decode(result.token_ids)
    assert engine.chat([{"role": "user", "content": "Hello"}], GREEDY).usage.completion_tokens == 12
    with pytest.raises(InvalidRequest, match="the prompt has"):
        engine.generate("word " * 2000)


def test_embeddings() -> None:
    engine = make_engine("vllm", {"model": str(tiny_model("embedding")), "max_model_len": 256})
    engine.start()
    try:
        assert engine.capabilities.tasks == ("embed",)
        one, two, three = (engine.embed(text) for text in ("Hello world", "Hello world", "cache"))
        assert len(one) == 256 and sum(value * value for value in one) == pytest.approx(1.0)
        assert one == pytest.approx(two, abs=1e-5) and one != pytest.approx(three, abs=1e-2)
        failed = run(engine, node(900, prompt(1)))[900][-1]
        assert isinstance(failed, Failed) and "offers embed" in failed.message
    finally:
        engine.stop()


def test_a_model_that_is_not_there() -> None:
    engine = make_engine("vllm", {"model": str(tiny_model()), "engine_args": {"no_such": 1}})
    with pytest.raises(EngineStartError, match="did not start with model"):
        engine.start()
