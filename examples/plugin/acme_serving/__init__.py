"""What acme adds to sage-llm-ops: one class a file, named by the entry points of pyproject.toml."""
