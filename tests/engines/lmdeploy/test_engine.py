"""LmdeployEngine over LMDeploy's real PyTorch engine on the CPU test device, stepped in this process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("lmdeploy", exc_type=ModuleNotFoundError)

from sage_llm_ops.engines.base import BaseEngine
from sage_llm_ops.engines.registry import make_engine
from sage_llm_ops.engines.tokenizers import tokenizer_for
from sage_llm_ops.testing.lmdeploy_cpu import CPU_LMDEPLOY
from sage_llm_ops.testing.tiny_lora import tiny_lora
from sage_llm_ops.testing.tiny_model import EOS, VOCAB, tiny_model
from sage_llm_ops.types.errors import EngineStartError, InvalidRequest
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Tokens
from tests.engines.lmdeploy.nodes import GREEDY, ids, node, prompt, run

pytestmark = [pytest.mark.lmdeploy, pytest.mark.slow]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

OPTIONS = {"model": str(tiny_model()), "session_len": 256, "served_model_name": "tiny"}


@pytest.fixture(scope="module")
def engine() -> Iterator[BaseEngine]:
    import torch

    torch.set_num_threads(1)
    engine = make_engine(CPU_LMDEPLOY, OPTIONS)
    engine.start()
    yield engine
    engine.stop()
    engine.stop()


def test_capabilities_are_those_of_the_engine_started(engine: BaseEngine) -> None:
    can = engine.capabilities
    assert can.tasks == ("generate",)
    assert (can.max_model_len, can.block_size, can.max_num_seqs) == (256, 32, 32)
    assert can.kv_blocks == 512 and can.prefix_cache and can.chat_template
    assert {"presence_penalty", "frequency_penalty"} == set(can.ignores)
    assert engine.model == "tiny" and engine.version.startswith("0.18")
    assert engine.tokenizer_hash == tokenizer_for("lmdeploy", str(tiny_model())).hash


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


def test_the_tokens_are_those_of_the_reference(engine: BaseEngine) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(str(tiny_model()), dtype=torch.float32)
    sampling = SamplingParams(max_tokens=64, temperature=0.0)
    for salt in range(3):
        ours = ids(run(engine, node(150 + salt, prompt(salt), sampling))[150 + salt])
        given = torch.tensor([prompt(salt)])
        theirs = reference.generate(
            given, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert ours == theirs[0, 20:].tolist()
        assert len(set(ours)) > 30 and EOS not in ours, "nothing is compared"


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


def test_seeds(engine: BaseEngine) -> None:
    seeded = [SamplingParams(max_tokens=8, temperature=3.0, seed=seed) for seed in (5, 5, 6)]
    events = run(engine, *(node(400 + k, prompt(4), each) for k, each in enumerate(seeded)))
    assert ids(events[400]) == ids(events[401]) != ids(events[402])


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=lambda given: next(iter(given))
)
def test_so_narrow_that_it_is_greedy(engine: BaseEngine, narrow: dict[str, float]) -> None:
    hot = SamplingParams(max_tokens=12, temperature=3.0, **narrow)
    events = run(engine, node(410, prompt(4), hot), node(411, prompt(4)))
    assert ids(events[410]) == ids(events[411])


def test_a_penalty_changes_the_answer(engine: BaseEngine) -> None:
    long = SamplingParams(max_tokens=128, temperature=0.0)
    penalised = SamplingParams(max_tokens=128, temperature=0.0, repetition_penalty=3.0)
    events = run(engine, node(420, prompt(4), long), node(421, prompt(4), penalised))
    assert ids(events[420]) != ids(events[421])


def test_stop_tokens(engine: BaseEngine) -> None:
    greedy = ids(run(engine, node(430, prompt(4)))[430])
    for extra in ({}, {"ignore_eos": True}):
        stop = SamplingParams(max_tokens=12, temperature=0.0, stop_token_ids=(greedy[3],), **extra)
        stopped = run(engine, node(431, prompt(4), stop))[431]
        assert ids(stopped) == greedy[: greedy.index(greedy[3]) + 1]
        assert isinstance(stopped[-1], Done) and stopped[-1].finish_reason == "stop"
    patient = SamplingParams(
        max_tokens=12, temperature=0.0, stop_token_ids=(greedy[0],), min_tokens=5
    )
    assert len(ids(run(engine, node(432, prompt(4), patient))[432])) >= 5


def test_the_end_of_the_sequence(engine: BaseEngine) -> None:
    """It is in reach when sampling is hot; who ignores it goes on after it."""
    lengths = {}
    for ignore in (False, True):
        hot = [
            SamplingParams(max_tokens=200, temperature=10.0, seed=seed, ignore_eos=ignore)
            for seed in range(16)
        ]
        events = run(engine, *(node(440 + k, prompt(4), each) for k, each in enumerate(hot)))
        lengths[ignore] = [len(ids(got)) for got in events.values()]
        reasons = {got[-1].finish_reason for got in events.values() if isinstance(got[-1], Done)}
        assert ("stop" in reasons) != ignore
    assert set(lengths[True]) == {200} and min(lengths[False]) < 200


def test_stop_strings_free_the_engine(engine: BaseEngine) -> None:
    text = engine.generate(prompt(4), GREEDY).text
    word = text[4:6]
    long = SamplingParams(max_tokens=200, temperature=0.0, stop=("never said", word))
    result = engine.generate(prompt(4), long)
    assert result.finish_reason == "stop"
    assert word in result.text and len(result.token_ids) < 12
    while engine.busy:
        engine.step()
    assert engine.stats().running == 0


def test_cancel_frees_the_cache(engine: BaseEngine) -> None:
    long = SamplingParams(max_tokens=200, temperature=0.0)
    before = engine.stats().kv_usage
    engine.submit(node(500, prompt(5), long))
    engine.submit(node(501, prompt(6), GREEDY))
    events: list[EngineEvent] = []
    while len(ids([event for event in events if event.node == 500])) < 5:
        events += engine.step()
    assert engine.stats().kv_usage > before
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
    assert engine.stats().running == 0
    # What stays are blocks that the prefix cache may drop at any time, which count as free.
    assert engine.stats().kv_usage == before, "the cancelled node keeps its blocks"


def test_cancel_at_every_moment_ends_once(engine: BaseEngine) -> None:
    """Also in the step that ends it by itself, and after."""
    three = SamplingParams(max_tokens=3, temperature=0.0)
    for steps in range(9):
        number = NodeId(600 + steps)
        engine.submit(node(number, prompt(7), three))
        events: list[EngineEvent] = []
        for _ in range(steps):
            events += engine.step()
        engine.cancel(number)
        while engine.busy:
            events += engine.step()
        assert sum(isinstance(event, Done) for event in events) == 1, steps
    assert engine.stats().running == 0


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


def test_what_lmdeploy_itself_refuses(engine: BaseEngine) -> None:
    wrong = SamplingParams(max_tokens=4, temperature=0.5, top_p=-1.0)
    events = run(engine, node(710, prompt(1), wrong), node(711, prompt(1)))
    failed = events[710][-1]
    assert isinstance(failed, Failed) and "LMDeploy refused it" in failed.message
    assert isinstance(events[711][-1], Done)


def test_other_tasks_and_kinds_are_refused(engine: BaseEngine) -> None:
    failed = run(engine, node(720, prompt(1), task="embed"))[720][-1]
    assert isinstance(failed, Failed) and "offers generate" in failed.message
    odd = node(721, prompt(1))
    odd.kind = "prefill"
    failed = run(engine, odd)[721][-1]
    assert isinstance(failed, Failed) and "node kind 'prefill'" in failed.message


def test_fills_the_context_and_stops_there(engine: BaseEngine) -> None:
    sampling = SamplingParams(max_tokens=50, ignore_eos=True)
    done = run(engine, node(730, prompt(2, 250), sampling))[730][-1]
    assert done == Done(NodeId(730), "length", 250, 6)


def test_more_than_a_batch(engine: BaseEngine) -> None:
    for k in range(40):
        engine.submit(node(800 + k, prompt(k)))
    events: list[EngineEvent] = []
    most = waiting = 0
    while engine.busy:
        events += engine.step()
        stats = engine.stats()
        most, waiting = max(most, stats.running), max(waiting, stats.waiting)
        assert 0.0 <= stats.kv_usage < 1.0
    assert most == 32 and waiting == 8
    assert sum(isinstance(event, Done) for event in events) == 40


def test_text_and_chat(engine: BaseEngine) -> None:
    result = engine.generate("Hello world", GREEDY)
    assert result.text == engine.tokenizer.decode(result.token_ids)
    chat = engine.chat([{"role": "user", "content": "Hello"}], GREEDY)
    assert chat.usage.completion_tokens == 12
    with pytest.raises(InvalidRequest, match="the prompt has"):
        engine.generate("word " * 2000)


def test_adapters(tmp_path: Path) -> None:
    """Each request its own, in one batch; the bare model is not disturbed."""
    modules = {name: str(tiny_lora(tmp_path / name, seed)) for seed, name in enumerate("ab", 1)}
    engine = make_engine(CPU_LMDEPLOY, {**OPTIONS, "lora_modules": modules})
    engine.start()
    try:
        assert engine.capabilities.adapters == ("a", "b")
        names = ("", "a", "b", "a", "")
        nodes = [node(k, prompt(5, 64), lora=name) for k, name in enumerate(names)]
        bare, first, second, first_again, bare_again = map(ids, run(engine, *nodes).values())
        assert bare == bare_again and first == first_again
        assert len({tuple(bare), tuple(first), tuple(second)}) == 3
        failed = run(engine, node(9, prompt(5), lora="c"))[9][-1]
        assert isinstance(failed, Failed) and "this worker has a, b" in failed.message
    finally:
        engine.stop()


def test_an_engine_that_died_says_so(engine: BaseEngine) -> None:
    """The last test that uses it: it takes the engine's own loop away."""
    engine.submit(node(900, prompt(1), SamplingParams(max_tokens=200, temperature=0.0)))
    engine.step()
    engine._core._engine._loop_main.cancel()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="LMDeploy's engine has died"):
        while engine.busy:
            engine.step()


def test_an_unknown_setting() -> None:
    engine = make_engine(CPU_LMDEPLOY, {"model": str(tiny_model()), "engine_args": {"no_such": 1}})
    with pytest.raises(EngineStartError, match=r"did not start with model .*no_such"):
        engine.start()
    engine.stop()
