"""Sweeps: many trials of one experiment, packed by resources, pruned, resumed and explained.

A `Search` says what the next trial is, a `Scheduler` what becomes of a running one. The driver asks
both, runs trials through an executor, and writes everything down in a journal, from which a killed
sweep is put together again.
"""
