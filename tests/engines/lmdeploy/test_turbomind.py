"""LmdeployEngine over TurboMind's real Python layer and pybind types, without its C++ engine."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("lmdeploy")
if shutil.which("cc") is None:
    pytest.skip("needs a C compiler", allow_module_level=True)

from sage_llm_ops.engines.base import BaseEngine
from sage_llm_ops.engines.registry import make_engine
from sage_llm_ops.testing.lmdeploy_cpu import TURBOMIND_HARNESS
from sage_llm_ops.testing.lmdeploy_cpu.turbomind import scripted_token
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.errors import EngineStartError
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Done, EngineEvent, Failed, Tokens
from tests.engines.lmdeploy.nodes import GREEDY, ids, node, prompt, run

pytestmark = [pytest.mark.lmdeploy, pytest.mark.slow]
OPTIONS = {
    "model": str(tiny_model()),
    "session_len": 256,
    "backend": "turbomind",
    "num_gpu_blocks": 100,
    "quant_policy": 8,
    "communicator": "cuda-ipc",
}


@pytest.fixture(scope="module")
def engine() -> Iterator[BaseEngine]:
    engine = make_engine(TURBOMIND_HARNESS, OPTIONS)
    engine.start()
    yield engine
    engine.stop()
    engine.stop()


def expected(start: list[int], count: int) -> list[int]:
    return [scripted_token(start[0], len(start) + k) for k in range(count)]


def test_the_types_have_what_they_had(engine: BaseEngine) -> None:
    """What LMDeploy's Python layer sets and reads; the file is of the version that we were run with."""
    from lmdeploy.turbomind import _tm

    file = Path(__file__).parent / "turbomind_types.json"
    for name, members in json.loads(file.read_text()).items():
        found = {member for member in dir(getattr(_tm, name)) if not member.startswith("_")}
        assert found >= set(members), f"{name} lost {set(members) - found}"


def test_capabilities(engine: BaseEngine) -> None:
    can = engine.capabilities
    assert (can.max_model_len, can.max_num_seqs, can.block_size) == (256, 32, 64)
    assert can.kv_blocks == 100 and can.prefix_cache
    assert not (can.kv_events or can.kv_transfer or can.external_order)
    config = engine._core._engine.engine_config  # type: ignore[attr-defined]
    assert (config.quant_policy, config.communicator) == (8, "cuda-ipc")
    assert config.cache_max_entry_count == 100 and config.enable_metrics


def test_streams_with_offsets(engine: BaseEngine) -> None:
    nodes = [node(100 + k, prompt(k), offset=k) for k in range(8)]
    events = run(engine, *nodes)
    for k, each in enumerate(nodes):
        got = events[each.id]
        assert ids(got) == expected(prompt(k), 12)
        assert got[-1] == Done(each.id, "length", 20, 12)
        place = each.offset
        for event in got:
            if isinstance(event, Tokens):
                assert event.offset == place
                place += len(event.ids)


def test_a_continued_attempt_is_exact(engine: BaseEngine) -> None:
    whole = ids(run(engine, node(200, prompt(3)))[200])
    rest = SamplingParams(max_tokens=7, temperature=0.0)
    assert ids(run(engine, node(201, prompt(3) + whole[:5], rest))[201]) == whole[5:]


def test_cached_tokens(engine: BaseEngine) -> None:
    first, second = (run(engine, node(n, prompt(50, 150)))[n][-1] for n in (300, 301))
    assert isinstance(first, Done) and isinstance(second, Done)
    assert (first.cached, second.cached) == (0, 128)


def test_what_reaches_the_binary(engine: BaseEngine) -> None:
    hot = SamplingParams(
        max_tokens=9,
        min_tokens=2,
        temperature=3.0,
        top_p=0.5,
        top_k=7,
        min_p=0.25,
        repetition_penalty=1.5,
        seed=11,
        stop_token_ids=(77,),
    )
    run(engine, node(400, prompt(1), hot), node(401, prompt(2)))
    configs = engine._core.scripted.configs  # type: ignore[attr-defined]
    (session, config), (other, greedy) = configs[-2:]
    assert session != other
    assert (config.max_new_tokens, config.min_new_tokens, config.top_k) == (9, 2, 7)
    assert (config.temperature, config.top_p, config.min_p) == (3.0, 0.5, 0.25)
    assert (config.repetition_penalty, config.random_seed) == (1.5, 11)
    assert config.stop_ids == [[2, 77], [1, 2]] and config.eos_ids == [2, 77]
    assert (greedy.top_k, greedy.stop_ids) == (1, [[2], [1]])


def test_stop_tokens_and_strings(engine: BaseEngine) -> None:
    answer = expected(prompt(4), 12)
    stop = SamplingParams(max_tokens=12, temperature=0.0, stop_token_ids=(answer[3],))
    stopped = run(engine, node(500, prompt(4), stop))[500]
    assert ids(stopped) == answer[:4]
    assert isinstance(stopped[-1], Done) and stopped[-1].finish_reason == "stop"
    word = engine.tokenizer.decode(answer)[4:6]
    worded = SamplingParams(max_tokens=200, temperature=0.0, stop=(word,))
    result = engine.generate(prompt(4), worded)
    assert result.finish_reason == "stop" and len(result.token_ids) <= 12


def test_cancel_at_every_moment_ends_once(engine: BaseEngine) -> None:
    for steps in range(9):
        number = NodeId(600 + steps)
        engine.submit(node(number, prompt(7), SamplingParams(max_tokens=3, temperature=0.0)))
        events: list[EngineEvent] = []
        for _ in range(steps):
            events += engine.step()
        engine.cancel(number)
        while engine.busy:
            events += engine.step()
        assert sum(isinstance(event, Done) for event in events) == 1, steps
    assert engine.stats().running == 0


def test_cancel_frees_the_place(engine: BaseEngine) -> None:
    long = SamplingParams(max_tokens=200, temperature=0.0)
    for k in range(40):
        engine.submit(node(700 + k, prompt(k), long))
    events: list[EngineEvent] = []
    while not any(isinstance(event, Tokens) for event in events):
        events += engine.step()
    for k in range(40):
        engine.cancel(NodeId(700 + k))
    while engine.busy:
        events += engine.step()
    assert sum(isinstance(event, Done) for event in events) == 40
    assert engine.stats().running == 0
    assert ids(run(engine, node(790, prompt(1)))[790]) == expected(prompt(1), 12)


def test_what_cannot_be_run(engine: BaseEngine) -> None:
    failed = run(engine, node(800, [5] * 256))[800][-1]
    assert isinstance(failed, Failed) and "this worker takes 255" in failed.message
    done = run(engine, node(801, prompt(2, 250), SamplingParams(max_tokens=50)))[801][-1]
    assert done == Done(NodeId(801), "length", 250, 6)
    assert engine.generate("Hello world", GREEDY).usage.completion_tokens == 12


def test_without_the_harness_the_error_says_what_is_missing() -> None:
    """In a process of its own: this one has the stand-ins."""
    import subprocess
    import sys

    code = (
        "from sage_llm_ops.engines.registry import make_engine\n"
        f"make_engine('lmdeploy', {OPTIONS!r}).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode, "there is a GPU here?"
    last = done.stderr.strip().splitlines()[-1]
    assert EngineStartError.__name__ in last and "TurboMind library does not load" in last
    assert "backend='pytorch'" in last
