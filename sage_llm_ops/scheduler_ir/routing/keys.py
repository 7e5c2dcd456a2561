"""Hashes of what requests have in common. The same in every process: no `hash()`, no random state."""

from __future__ import annotations

from hashlib import blake2b
from zlib import crc32

import numpy as np
import numpy.typing as npt

from sage_llm_ops.types.requests import Request

PREFIX_TOKENS = 256
"""How much of a prompt says which family it is of: a system prompt, the turns before."""
_TOKEN_BYTES = 4
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def of_id(request: Request, attempt: int) -> int:
    """Scatters: another one for every request and attempt."""
    return crc32(f"{request.id}#{attempt}".encode())


def of_tenant(request: Request) -> int:
    """The same for all requests of a tenant; of its own where it has none."""
    return _digest((request.tenant or request.id).encode())


def of_prefix(request: Request) -> int:
    """The same for all requests whose prompts begin alike."""
    if request.blocks:
        return _digest(repr(request.blocks[:2]).encode())
    if request.tokens:
        return _digest(request.tokens[: PREFIX_TOKENS * _TOKEN_BYTES])
    return of_tenant(request)


def rendezvous(key: int, mix: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A score a worker; the highest is the key's home. When a worker leaves, only what lived there
    moves (a ring needs many virtual nodes for the same)."""
    mixed = (mix ^ np.uint64(key)) * _MIX
    mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX
    scores: npt.NDArray[np.uint64] = mixed ^ (mixed >> _SHIFT)
    return scores


def _digest(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
