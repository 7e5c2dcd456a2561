"""KV events in vLLM's words, and those of engines that publish them (its ZeroMQ format): heard, put in
order, posted."""

from sage_llm_ops.engines.kv_events.listener import KvListener

__all__ = ["KvListener"]
