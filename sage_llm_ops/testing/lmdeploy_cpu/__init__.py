"""A CPU device for LMDeploy's PyTorch engine: the real engine, scheduler, paging, model agent and model
code; only the operators and `torch.cuda` are stand-ins.

For tests. Production code knows nothing of it; it becomes active only where an instance names the
engine below, `sage_llm_ops.testing...`, in full.
"""

CPU_LMDEPLOY = f"{__name__}.engine:CpuLmdeployEngine"
"""Its name for `make_engine` and `ExecutionInstance.engine`."""
TURBOMIND_HARNESS = f"{__name__}.turbomind:TurbomindHarness"
"""TurboMind's Python layer and types without its C++ engine."""
