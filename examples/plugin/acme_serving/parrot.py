"""An engine: it says the prompt again, one token a step."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from acme_serving.codepoints import Codepoints
from sage_llm_ops.engines.base import BaseEngine
from sage_llm_ops.engines.options import parse_options
from sage_llm_ops.engines.tokens import unpack
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Stats, Tokens


class Options(msgspec.Struct, frozen=True):
    """An instance's `options`."""

    max_num_seqs: int = 8


class Parrot(BaseEngine):
    """A worker process hosts it; what the contract asks of each method stands in `BaseEngine`."""

    name: ClassVar[str] = "parrot"
    tokenizer_kind: ClassVar[str] = "codepoints"
    version = "0.1.0"
    tokenizer_hash = Codepoints.hash

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = parse_options(Options, self.name, options)
        self._says: dict[NodeId, tuple[PlanNode, list[int], int]] = {}
        self._out: list[EngineEvent] = []

    def start(self) -> None:
        """A real engine loads its model here."""

    def stop(self) -> None:
        self._says.clear()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            sampling=("temperature",),  # there is one token to choose from at any temperature
            max_num_seqs=self._options.max_num_seqs,
            max_model_len=4096,
        )

    def submit(self, node: PlanNode) -> None:
        prompt = unpack(node.tokens)
        if not prompt:
            self._out.append(Failed(node.id, "invalid_request", "the prompt is empty"))
            return
        # A further attempt carries the tokens that were delivered already behind the prompt.
        self._says[node.id] = (node, prompt[: len(prompt) - node.offset], 0)
        self._out.append(Accepted(node.id))

    def cancel(self, node: NodeId) -> None:
        held = self._says.pop(node, None)
        if held is not None:
            self._out.append(Done(node, "cancelled", held[0].n_tokens, held[2]))

    def step(self) -> list[EngineEvent]:
        out, self._out = self._out, []
        for key in list(self._says)[: self._options.max_num_seqs]:
            node, words, made = self._says[key]
            token = words[(node.offset + made) % len(words)]
            out.append(Tokens(key, node.offset + made, [token]))
            self._says[key] = (node, words, made + 1)
            if made + 1 == node.sampling.max_tokens:
                del self._says[key]
                out.append(Done(key, "length", node.n_tokens, made + 1))
        return out

    @property
    def busy(self) -> bool:
        return bool(self._says or self._out)

    def stats(self) -> Stats:
        running = min(len(self._says), self._options.max_num_seqs)
        return Stats(running, len(self._says) - running, 0.0)
