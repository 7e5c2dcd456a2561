"""Shipped fakes: the seams that tests use, ours and yours."""
