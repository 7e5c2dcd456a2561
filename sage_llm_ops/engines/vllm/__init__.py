"""vLLM behind `BaseEngine`. vLLM itself is imported inside `start` only."""
