"""Shipped fakes: clocks, faults, engines and fleets for tests of ours and of yours.

Nothing in here lies on the path of a benchmark or of production.
"""
