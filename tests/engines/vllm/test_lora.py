"""LoRA adapters and traces through the real vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_llm_ops.engines.vllm.engine import VllmEngine
from sage_llm_ops.testing.tiny_lora import tiny_lora
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.errors import EngineStartError
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Done, Failed
from tests.engines.vllm.test_engine import ids, node, prompt, run

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def with_lora(number: int, lora: str) -> PlanNode:
    made = node(number, prompt(1))
    made.lora = made.model = lora
    return made


def test_adapters_answer_beside_the_bare_model(tmp_path: Path) -> None:
    modules = {
        name: str(tiny_lora(tmp_path / name, seed)) for seed, name in ((1, "law"), (2, "art"))
    }
    engine = VllmEngine({"model": str(tiny_model()), "max_model_len": 256, "lora_modules": modules})
    engine.start()
    try:
        assert engine.capabilities.adapters == ("law", "art")
        nodes = [node(1, prompt(1)), with_lora(2, "law"), with_lora(3, "art"), with_lora(4, "law")]
        nodes[0].trace = TRACE  # vLLM exports no spans here, and must not stumble over it
        together = run(engine, *nodes)
        answers = [tuple(ids(together[number])) for number in (1, 2, 3, 4)]
        assert all(isinstance(together[number][-1], Done) for number in (1, 2, 3, 4))
        assert answers[1] == answers[3] and len(set(answers)) == 3
        for number, one in ((5, node(5, prompt(1))), (6, with_lora(6, "law"))):
            alone = tuple(ids(run(engine, one)[number]))
            assert alone == answers[number - 5], "whatever else is in the batch"
        (failed,) = run(engine, with_lora(7, "lore"))[7]
        assert isinstance(failed, Failed)
        assert "adapter 'lore': this worker has law, art" in failed.message
    finally:
        engine.stop()


def test_the_trace_goes_where_vllm_exports_spans() -> None:
    engine = VllmEngine({"model": str(tiny_model())})
    traced = node(1, prompt(1))
    traced.trace = TRACE
    assert engine._more(traced) == {}
    engine._traced = True
    assert engine._more(traced) == {"trace_headers": {"traceparent": TRACE}}
    assert engine._more(node(2, prompt(1))) == {}


def test_an_adapter_that_is_not_there(tmp_path: Path) -> None:
    options = {"model": str(tiny_model()), "lora_modules": {"law": str(tmp_path / "nowhere")}}
    with pytest.raises(
        EngineStartError, match=r"adapter 'law': no adapter_config.json in .*nowhere"
    ):
        VllmEngine(options).start()
