"""What a user may say about a server reached over HTTP."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from sage_llm_ops.engines.http.dialects import DIALECTS
from sage_llm_ops.engines.options import parse_options
from sage_llm_ops.engines.tokenizers import TOKENIZERS
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import ExecutionInstance, ExecutionInstanceType

DEFAULT_HOST, DEFAULT_PORT = "localhost", 8000


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds are wall time. Whether tokens or text travel is decided by `tokenizer` alone."""

    base_url: str
    """Without `/v1`. Made of the instance's host and port where it is not given."""
    model: str
    """The model's name at the server; the instance's `model_name` where it is not given."""
    tokenizer: str = ""
    """Directory or hub name of the model's tokenizer. With it token ids travel both ways, and a
    request can be continued elsewhere; without it text does, and token counts are the server's."""
    tokenizer_kind: str = ""
    dialect: str = "auto"
    """What the server is, where it does not say it itself."""
    tasks: tuple[Literal["generate", "embed"], ...] = ("generate",)
    api_key_env: str = ""
    """Name of the environment variable that holds the API key. The key itself stands nowhere."""
    ca_file: str = ""
    """Certificates to trust with https, in place of the system's."""
    max_num_seqs: int = 64
    """How many requests the server batches: it does not tell."""
    max_model_len: int = 0
    """Where the server does not tell. 0: the server refuses what is too long."""
    kv_events: str = ""
    """Where the server publishes what becomes of its prefix cache (vLLM's `--kv-events-config`, its
    endpoint): tcp://host:5557. Needs a tokenizer and `block_size`."""
    kv_replay: str = ""
    """Its replay endpoint."""
    block_size: int = 16
    """Tokens a block of its prefix cache."""
    pool_size: int = 256
    """Connections kept to the server."""
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0
    """For short questions: health, models."""
    first_token_timeout_s: float = 300.0
    """Includes the server's queue; for embeddings the whole answer."""
    token_timeout_s: float = 60.0
    """Between two pieces of a stream."""
    start_timeout_s: float = 30.0
    """How long a start waits for a server that does not answer yet."""
    health_every_s: float = 5.0
    health_strikes: int = 3
    """So many health checks in a row may fail; a refused connection ends it at once."""

    def __post_init__(self) -> None:
        if self.dialect != "auto" and self.dialect not in DIALECTS:
            raise UnknownName("dialect of engine 'http'", self.dialect, ["auto", *DIALECTS])
        if self.tokenizer_kind and self.tokenizer_kind not in TOKENIZERS:
            raise UnknownName("tokenizer kind", self.tokenizer_kind, TOKENIZERS)
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigError(
                f"base_url={self.base_url!r} of engine 'http' must be like http://host:8000"
            )
        if url.username or url.password or url.query or url.fragment:
            raise ConfigError(
                f"base_url of engine 'http' for host {url.hostname!r} must be scheme, host, port and "
                "path alone; a key goes into an environment variable named by api_key_env"
            )
        for name in self.__struct_fields__:
            value = getattr(self, name)
            numeric = isinstance(value, int | float) and name != "max_model_len"
            if (numeric and not value > 0) or (name == "max_model_len" and value < 0):
                raise ConfigError(f"{name}={value!r} of engine 'http' must be above 0")
        if (self.kv_events or self.kv_replay) and not (self.kv_events and self.as_tokens):
            raise ConfigError(
                "kv_events of engine 'http' tell of token ids: give a tokenizer, and kv_events beside "
                "kv_replay, or leave them out"
            )
        if not self.tasks:
            raise ConfigError("tasks=[] of engine 'http': name generate, embed or both")

    @property
    def url(self) -> str:
        """Without a trailing slash, and without `/v1`, which everybody adds sometimes."""
        return self.base_url.rstrip("/").removesuffix("/v1").rstrip("/")

    @property
    def as_tokens(self) -> bool:
        """Whether token ids travel, both ways."""
        return bool(self.tokenizer or self.tokenizer_kind)


TASKS = {
    ExecutionInstanceType.EMBEDDING: ("embed",),
    ExecutionInstanceType.LLM_EMBEDDING: ("generate", "embed"),
}


def options_of(instance: ExecutionInstance) -> HttpOptions:
    """The instance's options, completed by its own fields."""
    given = dict(instance.options)
    if "base_url" not in given:
        host = instance.host or DEFAULT_HOST
        host = f"[{host}]" if ":" in host else host
        given["base_url"] = f"http://{host}:{instance.port or DEFAULT_PORT}"
    elif instance.host is not None or instance.port is not None:
        raise ConfigError(
            f"instance {instance.instance_id!r}: base_url and host or port say the same thing twice; "
            "give one of them"
        )
    kind = ExecutionInstanceType(instance.instance_type)
    said: dict[str, Any] = {"model": instance.model_name, "tasks": TASKS.get(kind, ("generate",))}
    if instance.engine in DIALECTS:
        said["dialect"] = instance.engine
    return parse_options(HttpOptions, "http", said | given)
