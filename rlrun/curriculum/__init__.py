"""Curricula: callbacks that choose the tasks which the envs of a run play."""
