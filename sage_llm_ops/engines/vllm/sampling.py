"""Our sampling parameters as vLLM's."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.types.requests import SamplingParams

FIELDS: tuple[str, ...] = SamplingParams.__struct_fields__
"""vLLM has all of them under the same names."""

_DEFAULT = SamplingParams()


def to_vllm(sampling: SamplingParams) -> Any:
    """vLLM's object; what stands at our default is left at vLLM's, which is the same."""
    from vllm import SamplingParams as Theirs
    from vllm.sampling_params import RequestOutputKind

    changed = {
        name: _plain(value)
        for name in FIELDS
        if (value := getattr(sampling, name)) != getattr(_DEFAULT, name)
    }
    return Theirs(
        **changed,
        output_kind=RequestOutputKind.DELTA,
        # Text is made on the caller's side; only stop strings need it here.
        detokenize=bool(sampling.stop),
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
