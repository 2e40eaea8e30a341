"""Kept results of runs over the whole program, and the tools that compare with them.

``runs`` is the table of runs. ``test_golden`` compares each with what ``kept`` holds of it;
``python -m tests.golden.regenerate --reason WHY`` keeps new results, ``python -m
tests.golden.two_commits OLD NEW`` compares the very bytes of two commits.
"""
