"""TurboMind's contract without a GPU: its real Python layer over its real pybind types.

What is replaced is the C++ request alone, by one that says scripted tokens from a thread of its own,
as TurboMind's callbacks come from its threads. So our adapter, LMDeploy's
`TurboMindInstance.async_stream_infer` and every type between them are the ones of production; what
TurboMind computes is not tested here.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from sage_llm_ops.engines.lmdeploy.core import Core
from sage_llm_ops.engines.lmdeploy.engine import LmdeployEngine
from sage_llm_ops.engines.lmdeploy.turbomind import TurbomindCore
from sage_llm_ops.engines.lmdeploy.versions import check_backend

GOES_ON, FINISHED, CANCELLED = 0, 7, 8
"""TurboMind's codes of a request's state."""
VOCABULARY = 2000
BATCH = 32


def scripted_token(first: int, position: int) -> int:
    """The token at an absolute position: prompt + delivered continues exactly."""
    return 10 + (first * 131 + 31 * position) % VOCABULARY


class ScriptedRequest:
    """In the place of the C++ `ModelRequest`; `forward` insists on the types that one takes."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self._cancelled = threading.Event()

    def forward(
        self,
        inputs: Any,
        mm_inputs: Any,
        session: Any,
        config: Any,
        stream_output: bool,
        enable_metrics: bool,
        callback: Any,
    ) -> Any:
        import torch
        from lmdeploy.turbomind.turbomind import _tm, _tm_dict_to_torch_dict

        assert isinstance(inputs, _tm.TensorMap)
        assert isinstance(session, _tm.SessionParam)
        assert isinstance(config, _tm.GenerationConfig)
        assert mm_inputs is None and stream_output and enable_metrics
        prompt = _tm_dict_to_torch_dict(inputs)["input_ids"].tolist()
        buffer = torch.zeros(len(prompt) + config.max_new_tokens, dtype=torch.int32)
        outputs = _tm.TensorMap()
        outputs["output_ids"] = _tm.from_dlpack(buffer)
        self._cancelled.clear()
        self._engine.configs.append((session.id, config))
        states = States()
        cached = self._engine.cached(prompt)
        threading.Thread(
            target=self._say, args=(prompt, config, buffer, states, callback), daemon=True
        ).start()
        return (
            outputs,
            states,
            SimpleNamespace(cached_tokens=cached, enqueue_time=1, scheduled_time=2),
        )

    def cancel(self) -> None:
        self._cancelled.set()

    def _say(self, prompt: list[int], config: Any, buffer: Any, states: States, tell: Any) -> None:
        with self._engine.running:
            stops = set(config.stop_ids[0])
            length = len(prompt)
            status = FINISHED
            for _ in range(config.max_new_tokens):
                if self._cancelled.wait(self._engine.step_s):
                    status = CANCELLED
                    break
                token = scripted_token(prompt[0], length)
                buffer[length] = token
                length += 1
                if token in stops and length - len(prompt) >= config.min_new_tokens:
                    break
                states.put(GOES_ON, length)
                tell()
        # The contract of the real one: nothing is called after a state that ends it.
        states.put(status, length)
        tell()


class States:
    """In the place of `AtomicRequestState`: the newest state, which replaces an unread one."""

    def __init__(self) -> None:
        self._state = SimpleNamespace(status=GOES_ON, seq_len=0)

    def put(self, status: int, length: int) -> None:
        self._state = SimpleNamespace(status=status, seq_len=length)

    def consume(self) -> Any:
        return self._state


class ScriptedEngine:
    """In the place of the C++ `TurboMind`."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.running = threading.Semaphore(BATCH)
        self.configs: list[tuple[int, Any]] = []
        """Session and configuration of every request, as the C++ side saw them."""
        self._seen: set[tuple[int, ...]] = set()

    def create_request(self) -> ScriptedRequest:
        return ScriptedRequest(self)

    def get_schedule_metrics(self, node: int) -> Any:
        active = BATCH - self.running._value
        return SimpleNamespace(
            active_seqs=active,
            waiting_seqs=0,
            cache_usage=active / BATCH,
            prefix_cache_hit_rate=0.0,
            scheduler_tick=0,
        )

    def cached(self, prompt: list[int]) -> int:
        """Whole blocks of 64 that an earlier prompt began with."""
        blocks = [tuple(prompt[: n + 64]) for n in range(0, len(prompt) - 64, 64)]
        hit = sum(block in self._seen for block in blocks) * 64
        self._seen.update(blocks)
        return hit


class HarnessCore(TurbomindCore):
    """The adapter of production over a TurboMind object that has no C++ side."""

    scripted: ScriptedEngine

    def _build(self, config: Any) -> Any:
        from lmdeploy.turbomind.turbomind import TurboMind

        self.scripted = ScriptedEngine(step_s=0.004)
        config.max_batch_size = config.max_batch_size or BATCH
        engine = object.__new__(TurboMind)
        engine.model_comm = self.scripted
        engine.engine_config = config
        engine.session_len = config.session_len
        engine.config_dict = {}
        return engine


class TurbomindHarness(LmdeployEngine):
    """Everything but TurboMind's C++ is what runs in production."""

    def _make_core(self, session_len: int) -> Core:
        from sage_llm_ops.testing.lmdeploy_cpu import libraries

        libraries.install()
        check_backend("turbomind", self._version)
        return HarnessCore(self._options, session_len)
