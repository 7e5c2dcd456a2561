"""What the simulated engine offers, and which nodes it takes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sage_llm_ops.engines.sim.cache import Key
from sage_llm_ops.engines.sim.options import SimOptions
from sage_llm_ops.engines.sim.sequence import SimSequence
from sage_llm_ops.engines.sim.tokens import TOKEN_BYTES, TokenStream, block_keys
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import CapabilityError, InvalidRequest
from sage_llm_ops.types.plans import PlanNode

SAMPLING = (
    "max_tokens",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    # The simulated model puts all its probability on one token, so these change nothing:
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
)


KINDS = ("fused", "prefill", "decode")


def capabilities(options: SimOptions) -> Capabilities:
    """What an engine with these options can do."""
    return Capabilities(
        tasks=options.tasks,
        streaming=options.visible_tokens,
        sampling=SAMPLING,
        prefix_cache=options.prefix_cache,
        adapters=tuple(options.lora_modules),
        models=tuple(options.models),
        node_kinds=KINDS if options.splits else KINDS[:1],
        step_ms=options.step_ms,
        max_model_len=options.max_tokens,
        max_num_seqs=options.max_num_seqs,
        kv_blocks=options.kv_blocks,
        block_size=options.block_size,
        max_num_batched_tokens=options.max_num_batched_tokens,
    )


def to_sequence(node: PlanNode, options: SimOptions) -> SimSequence:
    """The node as the scheduler wants it; `InvalidRequest` or `CapabilityError` says why not."""
    kinds = KINDS if options.splits else KINDS[:1]
    if node.task not in options.tasks or node.kind not in kinds:
        raise CapabilityError(
            f"task={node.task!r}, kind={node.kind!r}: this engine offers tasks "
            f"{', '.join(options.tasks)} as nodes of kind {', '.join(kinds)}"
        )
    if node.lora and node.lora not in options.lora_modules:
        raise CapabilityError(
            f"adapter {node.lora!r}: this engine has {', '.join(options.lora_modules) or 'none'}; "
            "name it in its lora_modules"
        )
    if options.models and node.model not in options.models:
        raise CapabilityError(
            f"model {node.model!r}: this engine has {', '.join(options.models)}; name it in its models"
        )
    if node.tokens and len(node.tokens) != TOKEN_BYTES * node.n_tokens:
        raise InvalidRequest(
            f"{len(node.tokens)} bytes of tokens are not n_tokens={node.n_tokens} int32 numbers"
        )
    room = options.max_tokens - node.n_tokens
    if node.n_tokens < 1 or room < 1:
        raise InvalidRequest(
            f"a prompt of {node.n_tokens} tokens does not fit: 1 to {options.max_tokens - 1} "
            f"do (max_model_len={options.max_model_len}, kv_blocks={options.kv_blocks} of "
            f"block_size={options.block_size}); shorten it or raise these options"
        )
    keys = _keys(node, options) if options.prefix_cache else ()
    if node.kind == "decode":
        keys = ()  # its KV came from elsewhere, under no key of ours
    if node.task == "embed":
        return SimSequence(node, keys, 0, "stop")
    sequence = SimSequence(node, keys, min(node.sampling.max_tokens, room), "length")
    _find_stop(sequence, options)
    return sequence


def _keys(node: PlanNode, options: SimOptions) -> Sequence[Key]:
    """What one model computed is of no use to another."""
    if options.models:
        node = msgspec.structs.replace(node, lora=f"{node.model}/{node.lora}")
    return block_keys(node, options.block_size)


def _find_stop(sequence: SimSequence, options: SimOptions) -> None:
    """Where a token could end the answer, its length is known only by making it."""
    sampling, eos = sequence.node.sampling, options.eos_token_id
    if not sampling.stop_token_ids and (eos is None or sampling.ignore_eos):
        return
    stops = set(sampling.stop_token_ids)
    if eos is not None and not sampling.ignore_eos:
        stops.add(eos)
    stream = TokenStream(sequence.node, options.vocab_size)
    ids: list[int] = []
    for place in range(1, sequence.out + 1):
        ids += stream.take(1)
        if ids[-1] in stops and place >= sampling.min_tokens:
            sequence.out, sequence.reason = place, "stop"
            break
    sequence.ids = ids
