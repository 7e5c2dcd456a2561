"""When blocks were used, and as what: what predictions are made from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, final

from sage_llm_ops.types.errors import ConfigError, IntegrityError
from sage_llm_ops.types.kv import BlockKey


class Use(NamedTuple):
    """A block's last use."""

    at: float
    uses: int
    """So far, this one included."""
    tail: bool
    """It was the last block of its prompt: usually not full, and then never seen again."""


@final
class AccessHistory:
    """The last use of the most recently used blocks, resident or not; at most `limit` of them."""

    def __init__(self, limit: int = 1 << 17) -> None:
        if limit < 1:
            raise ConfigError(f"access history of {limit} blocks; at least 1 is needed")
        self.limit = limit
        self._uses: OrderedDict[BlockKey, Use] = OrderedDict()

    def note(self, key: BlockKey, now: float, *, tail: bool = False) -> Use | None:
        """Remember a use; the one before it, if it is still known."""
        before = self._uses.get(key)
        self._uses[key] = Use(now, 1 if before is None else before.uses + 1, tail)
        self._uses.move_to_end(key)
        if len(self._uses) > self.limit:
            self._uses.popitem(last=False)
        return before

    def get(self, key: BlockKey) -> Use | None:
        return self._uses.get(key)

    def __len__(self) -> int:
        return len(self._uses)

    def __iter__(self) -> Iterator[Use]:
        """Longest unused first."""
        return iter(self._uses.values())

    def check_integrity(self) -> None:
        times = [use.at for use in self]
        if times != sorted(times) or len(times) > self.limit:
            raise IntegrityError("access history: uses are not in the order of time, or too many")
