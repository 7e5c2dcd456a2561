"""LMDeploy as a `BaseEngine`."""

from __future__ import annotations

import logging
import os
from typing import Any, ClassVar, NamedTuple

from sage_llm_ops.engines.base import BaseEngine, Tokenizer
from sage_llm_ops.engines.lmdeploy.core import Core, goes_on
from sage_llm_ops.engines.lmdeploy.nodes import Held, NodeTable, broken
from sage_llm_ops.engines.lmdeploy.options import LmdeployOptions, complete
from sage_llm_ops.engines.lmdeploy.sampling import FIELDS, stop_tokens, to_lmdeploy
from sage_llm_ops.engines.lmdeploy.stops import StopStrings
from sage_llm_ops.engines.lmdeploy.versions import check_backend, check_release
from sage_llm_ops.engines.options import parse_options
from sage_llm_ops.engines.tokens import unpack
from sage_llm_ops.engines.unfit import unfit
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import EngineStartError, IntegrityError
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Stats


class ModelFacts(NamedTuple):
    """What the model's own files say."""

    context: int
    vocabulary: int
    eos: frozenset[int]


class LmdeployEngine(BaseEngine):
    """One LMDeploy engine over either backend."""

    name: ClassVar[str] = "lmdeploy"

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = parse_options(LmdeployOptions, self.name, options)
        self._nodes = NodeTable()
        self._out: list[EngineEvent] = []
        self._core: Core | None = None
        self._version = ""
        self._tokenizer_hash = ""
        self._facts = ModelFacts(0, 0, frozenset())
        self._capabilities = Capabilities(tasks=())
        self._tokenizer: Tokenizer | None = None

    @staticmethod
    def complete_options(instance: ExecutionInstance, options: dict[str, Any]) -> dict[str, Any]:
        """Used by the registry."""
        return complete(instance, options)

    @property
    def python(self) -> str:
        return self._options.python

    def start(self) -> None:
        self._version = check_release()
        from sage_llm_ops.engines.tokenizers.files import tokenizer_hash

        self._tokenizer_hash = tokenizer_hash(self._tokenizer_source)
        try:
            self._facts = self._read_model()
            # After the import, which says INFO: several lines for every request.
            logging.getLogger("lmdeploy").setLevel(os.environ.get("LMDEPLOY_LOG_LEVEL", "WARNING"))
            self._core = self._make_core(self._facts.context)
            self._core.start()
            self._capabilities = self._measure(self._core)
        except EngineStartError:
            self.stop()
            raise
        # SystemExit is how LMDeploy's check of the environment says no, after it has logged why.
        except (Exception, SystemExit) as error:
            self.stop()
            raise EngineStartError(
                f"LMDeploy {self._version} did not start with model {self._options.model!r}: "
                f"{error!r}"
            ) from error

    def _read_model(self) -> ModelFacts:
        from lmdeploy.archs import get_model_arch
        from lmdeploy.utils import _get_and_verify_max_len, get_hf_gen_cfg

        model, trust = self._options.model, self._options.trust_remote_code
        _, config = get_model_arch(model, trust_remote_code=trust)
        text = config.get_text_config()
        eos = get_hf_gen_cfg(model, trust_remote_code=trust).get("eos_token_id")
        return ModelFacts(
            context=self._options.session_len or int(_get_and_verify_max_len(config, None)),
            vocabulary=int(text.vocab_size),
            eos=frozenset([eos] if isinstance(eos, int) else eos or ()),
        )

    def _make_core(self, session_len: int) -> Core:
        backend = self._options.backend
        if backend == "auto":
            from lmdeploy.archs import autoget_backend

            backend = autoget_backend(self._options.model, self._options.trust_remote_code)
        check_backend(backend, self._version)
        if backend == "turbomind":
            from sage_llm_ops.engines.lmdeploy.turbomind import TurbomindCore

            return TurbomindCore(self._options, session_len)
        from sage_llm_ops.engines.lmdeploy.pytorch import PytorchCore

        return PytorchCore(self._options, session_len)

    def _measure(self, core: Core) -> Capabilities:
        from sage_llm_ops.engines.tokenizers.files import tokenizer_directory
        from sage_llm_ops.engines.tokenizers.template import ChatTemplate

        limits = core.limits
        return Capabilities(
            tasks=("generate",),
            sampling=FIELDS,
            chat_template=ChatTemplate(tokenizer_directory(self._tokenizer_source)).exists,
            prefix_cache=limits.prefix_cache,
            adapters=tuple(self._options.lora_modules),
            max_model_len=limits.max_model_len,
            max_num_seqs=limits.max_num_seqs,
            kv_blocks=limits.kv_blocks,
            block_size=limits.block_size,
            max_num_batched_tokens=limits.max_num_batched_tokens,
        )

    def stop(self) -> None:
        core, self._core = self._core, None
        if core is not None:
            core.stop()

    @property
    def _tokenizer_source(self) -> str:
        return self._options.tokenizer or self._options.model

    @property
    def spawns(self) -> bool:
        # TurboMind's ranks are threads; the PyTorch engine's are processes.
        ranks = self._options.tp * self._options.dp * self._options.ep
        return self._options.backend != "turbomind" and ranks > 1

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def version(self) -> str:
        return self._version

    @property
    def tokenizer_hash(self) -> str:
        return self._tokenizer_hash

    @property
    def model(self) -> str:
        return self._options.served_model_name or self._options.model

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            from sage_llm_ops.engines.tokenizers import tokenizer_for

            self._tokenizer = tokenizer_for(self.name, self._tokenizer_source)
        return self._tokenizer

    def submit(self, node: PlanNode) -> None:
        core = self._running_core()
        refused = unfit(node, ids := _ids(node), self._capabilities, self._facts.vocabulary)
        if refused is not None:
            self._out.append(Failed(node.id, "invalid_request", refused))
            return
        sampling = node.sampling
        stops = stop_tokens(sampling, self._facts.eos)
        room = self._capabilities.max_model_len - len(ids)
        try:
            config = to_lmdeploy(sampling, stops, room)
        except (AssertionError, ValueError, TypeError) as error:
            self._out.append(Failed(node.id, "invalid_request", f"LMDeploy refused it: {error!r}"))
            return
        decoder = self.tokenizer.decoder() if sampling.stop else None
        strings = StopStrings(sampling, decoder) if decoder else None
        key = self._nodes.add(Held(node, stops, strings))
        try:
            core.add(key, ids, config, node.lora)
        except Exception as error:
            self._nodes.drop(node.id)
            self._out.append(broken(node, error))
            return
        self._out.append(Accepted(node.id))

    def cancel(self, node: NodeId) -> None:
        held = self._nodes.drop(node)
        if held is None:
            return
        self._running_core().abort(self._nodes.key(node))
        self._out.append(held.done("cancelled"))

    def step(self) -> list[EngineEvent]:
        core = self._running_core()
        out, self._out = self._out, []
        # A refusal or an end does not wait for the model. That a node was taken does: a frame of its
        # own would wake the plane once more for every request.
        if core.active and all(isinstance(event, Accepted) for event in out):
            for item in core.poll():
                events = self._nodes.events(item)
                out.extend(events)
                if events and goes_on(item) and isinstance(events[-1], Done):
                    core.abort(
                        item.key
                    )  # a stop string was found, which the engine knows nothing of
        return out

    @property
    def busy(self) -> bool:
        core = self._core
        return bool(self._out or (core is not None and core.active))

    def stats(self) -> Stats:
        metrics = self._running_core().metrics()
        return Stats(metrics.active_seqs, metrics.waiting_seqs, float(metrics.cache_usage))

    def _running_core(self) -> Core:
        if self._core is None:
            raise IntegrityError("the LMDeploy engine is not started")
        return self._core


def _ids(node: PlanNode) -> list[int]:
    try:
        return unpack(node.tokens)
    except ValueError:
        return []
