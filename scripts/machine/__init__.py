"""The steps of `scripts/check_machine.py`, one module for each group, and how they are run."""
