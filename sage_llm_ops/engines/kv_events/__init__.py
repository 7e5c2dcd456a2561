"""KV events of engines that publish them (vLLM's ZeroMQ format): heard, put in order, posted."""

from sage_llm_ops.engines.kv_events.listener import KvListener

__all__ = ["KvListener"]
