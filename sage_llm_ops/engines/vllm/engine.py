"""vLLM as a `BaseEngine`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from sage_llm_ops.engines.base import BaseEngine, Tokenizer
from sage_llm_ops.engines.options import parse_options
from sage_llm_ops.engines.tokens import unpack
from sage_llm_ops.engines.unfit import unfit
from sage_llm_ops.engines.vllm.core import Core
from sage_llm_ops.engines.vllm.kept import Kept
from sage_llm_ops.engines.vllm.nodes import NodeTable, rejected
from sage_llm_ops.engines.vllm.options import VllmOptions, complete
from sage_llm_ops.engines.vllm.publishing import Publishing, events_arguments, publishing, wanted
from sage_llm_ops.engines.vllm.sampling import FIELDS, to_vllm
from sage_llm_ops.engines.vllm.versions import check_version, is_cpu_build
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import EngineStartError, IntegrityError
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.kv import KvChange
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Stats

TASKS = ("generate", "embed")


class VllmEngine(BaseEngine):
    """One vLLM engine over either core. CPU and CUDA builds, the same code."""

    name: ClassVar[str] = "vllm"

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = parse_options(VllmOptions, self.name, options)
        self._nodes = NodeTable()
        self._out: list[EngineEvent] = []
        self._core: Core | None = None
        self._version = ""
        self._tokenizer_hash = ""
        self._vocabulary = 0
        self._traced = False
        self._publishing: Publishing | None = None
        """Where its EngineCore, another process, tells of its prefix cache."""
        self._kept: Kept | None = None
        """What it has to tell of it, where it runs in this one."""
        self._adapters: dict[str, Any] = {}
        """vLLM's LoRARequest by name."""
        self._capabilities = Capabilities(tasks=())
        self._tokenizer: Tokenizer | None = None

    @staticmethod
    def complete_options(instance: ExecutionInstance, options: dict[str, Any]) -> dict[str, Any]:
        """Used by the registry."""
        return complete(instance, options)

    def start(self) -> None:
        self._version = check_version()
        from sage_llm_ops.engines.tokenizers.files import tokenizer_hash

        self._tokenizer_hash = tokenizer_hash(self._tokenizer_source)
        try:
            self._core = self._make_core()
            self._core.start()
            self._capabilities = self._measure(self._core)
        except Exception as error:
            self.stop()
            raise EngineStartError(
                f"vLLM {self._version} did not start with model {self._options.model!r}: {error}"
            ) from error

    def _make_core(self) -> Core:
        from vllm.platforms import current_platform

        self._adapters = lora_requests(self._options.lora_modules)
        cpu = current_platform.is_cpu()
        arguments = self._options.arguments(cpu=cpu)
        tells = wanted(self._options)
        if self._options.core_on(cpu=cpu) == "inproc":
            from sage_llm_ops.engines.vllm.inproc import InprocCore

            if tells:
                self._kept = Kept()
                arguments |= events_arguments(publisher="null")
            return InprocCore(arguments, self._kept)
        from sage_llm_ops.engines.vllm.asynchronous import AsyncCore

        self._publishing = publishing() if tells else None
        if self._publishing is not None:
            arguments |= self._publishing.arguments()
        return AsyncCore(arguments)

    def _measure(self, core: Core) -> Capabilities:
        from sage_llm_ops.engines.tokenizers.files import tokenizer_directory
        from sage_llm_ops.engines.tokenizers.template import ChatTemplate

        config = core.config
        self._vocabulary = int(config.model_config.get_vocab_size())
        self._traced = bool(config.observability_config.otlp_traces_endpoint)
        tasks = tuple(task for task in TASKS if task in core.tasks)
        generates = "generate" in tasks
        caches, said = bool(config.cache_config.enable_prefix_caching), self._publishing
        return Capabilities(
            tasks=tasks,
            streaming=generates,
            sampling=FIELDS if generates else (),
            chat_template=ChatTemplate(tokenizer_directory(self._tokenizer_source)).exists,
            adapters=tuple(self._adapters),
            prefix_cache=caches,
            tells_cache=caches and self._kept is not None,
            kv_events=said.live if caches and said is not None else "",
            kv_replay=said.replay if caches and said is not None else "",
            max_model_len=int(config.model_config.max_model_len),
            max_num_seqs=int(config.scheduler_config.max_num_seqs),
            kv_blocks=int(config.cache_config.num_gpu_blocks or 0),
            block_size=int(config.cache_config.block_size),
            max_num_batched_tokens=int(config.scheduler_config.max_num_batched_tokens),
        )

    def stop(self) -> None:
        core, self._core = self._core, None
        if core is not None:
            core.stop()
        said, self._publishing = self._publishing, None
        if said is not None:
            said.end()

    @property
    def _tokenizer_source(self) -> str:
        return self._options.tokenizer or self._options.model

    @property
    def spawns(self) -> bool:
        ranks = (
            self._options.tensor_parallel_size
            * self._options.pipeline_parallel_size
            * self._options.data_parallel_size
        )
        return ranks > 1 or self._options.core_on(cpu=is_cpu_build()) != "inproc"

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
        refused = unfit(node, ids := _ids(node), self._capabilities, self._vocabulary)
        if refused is not None:
            self._out.append(Failed(node.id, "invalid_request", refused))
            return
        key = self._nodes.add(node)
        try:
            pooling = node.task == "embed"
            core.add(key, ids, self._params(node), pooling=pooling, **self._more(node))
        except Exception as error:
            self._nodes.drop(node.id)
            self._out.append(rejected(node, error))
            return
        self._out.append(Accepted(node.id))

    @staticmethod
    def _params(node: PlanNode) -> Any:
        if node.task == "embed":
            from vllm import PoolingParams

            return PoolingParams(task="embed")
        return to_vllm(node.sampling)

    def _more(self, node: PlanNode) -> dict[str, Any]:
        """What few nodes have. A trace goes on where vLLM itself is told to export spans: without
        that it would be dropped there with a warning."""
        more: dict[str, Any] = {}
        if node.lora:
            more["lora_request"] = self._adapters[node.lora]
        if node.trace and self._traced:
            more["trace_headers"] = {"traceparent": node.trace}
        return more

    def cancel(self, node: NodeId) -> None:
        held = self._nodes.drop(node)
        if held is None:
            return
        self._running_core().abort(self._nodes.key(node))
        self._out.append(Done(node, "cancelled", held.node.n_tokens, held.made, held.cached))

    def step(self) -> list[EngineEvent]:
        out, self._out = self._out, []
        # A refusal or an end does not wait for a step of the model. That a node was taken does: a
        # frame of its own would wake the plane once more for every request.
        if len(self._nodes) and all(isinstance(event, Accepted) for event in out):
            for output in self._running_core().poll():
                out.extend(self._nodes.events(output))
        return out

    @property
    def busy(self) -> bool:
        return bool(len(self._nodes) or self._out)

    def cache_changes(self) -> list[KvChange]:
        return [] if self._kept is None else self._kept.take()

    def stats(self) -> Stats:
        load = self._running_core().load()
        return Stats(load.running, load.waiting, load.kv_usage)

    def _running_core(self) -> Core:
        if self._core is None:
            raise IntegrityError("the vLLM engine is not started")
        return self._core


def lora_requests(modules: dict[str, str]) -> dict[str, Any]:
    """vLLM numbers adapters from 1; the name's place is as good as any number. It looks for them
    with the first request only, which is too late to find that one is not there."""
    if not modules:
        return {}
    for name, path in modules.items():
        if not (Path(path) / "adapter_config.json").is_file():
            raise EngineStartError(f"adapter {name!r}: no adapter_config.json in {path!r}")
    from vllm.lora.request import LoRARequest

    return {
        name: LoRARequest(name, number, path)
        for number, (name, path) in enumerate(modules.items(), 1)
    }


def _ids(node: PlanNode) -> list[int]:
    try:
        return unpack(node.tokens)
    except ValueError:
        return []
