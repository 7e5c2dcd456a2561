"""Stands in for a CUDA device where there is none: what LMDeploy puts "on cuda" lies on the CPU.

LMDeploy's non-CUDA integrations do the same: they patch the canonical "cuda" path of torch before
the engine reaches it. Everything is synchronous here, so streams and events have nothing to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MEMORY = 512 << 20
"""What the device says it has; the cache is given in blocks, so nothing is derived from it."""


class Event:
    """An event that has always happened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 0.0

    def _nothing(self, *args: Any) -> None:
        pass

    record = wait = synchronize = _nothing


class Stream(Event):
    """A stream in which nothing is pending."""

    cuda_stream = 0
    device = torch.device("cpu")

    def record_event(self, *args: Any) -> Event:
        return Event()

    wait_event = wait_stream = Event._nothing


class ToCpu(TorchFunctionMode):
    """While it is entered, `device="cuda"` means the CPU for every function of torch."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {name: on_cpu(value) for name, value in (kwargs or {}).items()}
        given.pop("pin_memory", None)
        return func(*(on_cpu(value) for value in args), **given)


def on_cpu(value: Any) -> Any:
    """A device that names CUDA, as the CPU; anything else as it is."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    return "cpu" if isinstance(value, str) and value.split(":")[0] == "cuda" else value


def install() -> None:
    """Once per process, and not to be taken back."""
    default = Stream()
    cuda: Any = torch.cuda
    cuda.Stream, cuda.Event = Stream, Event
    cuda.stream = lambda stream: contextlib.nullcontext()
    properties = SimpleNamespace(
        name="cpu", major=9, minor=0, multi_processor_count=1, total_memory=MEMORY, uuid="0"
    )
    answers = {
        "current_stream": default,
        "default_stream": default,
        "synchronize": None,
        "set_device": None,
        "empty_cache": None,
        "mem_get_info": (MEMORY // 2, MEMORY),
        "current_device": 0,
        "device_count": 1,
        "is_bf16_supported": True,
        "get_device_capability": (9, 0),
        "get_device_properties": properties,
    }
    for name, answer in answers.items():
        setattr(cuda, name, _always(answer))
    torch._C._cuda_clearCublasWorkspaces = _always(None)
    _install_on_tensors()


def _always(answer: Any) -> Callable[..., Any]:
    """A function of its own for each: torch.compile's table of functions refuses one under two names."""
    return lambda *args, **kwargs: answer


def _install_on_tensors() -> None:
    tensor: Any = torch.Tensor
    to = tensor.to

    def to_cpu(self: Any, *args: Any, **kwargs: Any) -> Any:
        moved = {name: on_cpu(value) for name, value in kwargs.items()}
        return to(self, *(on_cpu(value) for value in args), **moved)

    tensor.to = to_cpu
    tensor.cuda = tensor.pin_memory = lambda self, *args, **kwargs: self
    tensor.record_stream = lambda self, stream: None


@contextlib.contextmanager
def building() -> Iterator[None]:
    """While the engine is made: afterwards only `Tensor.to` and `.cuda` name the device, and every
    function of torch would pay for the mode."""
    with ToCpu():
        yield
