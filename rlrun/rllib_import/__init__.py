"""Experiment files of the classic RLlib as runs and sweeps of ours; imports no torch.

`keys` is the one table of what becomes of each key, `defaults` what the classic RLlib gives to
those that a file leaves out, `envs` what its envs are called here, `translate` puts them together,
and `files` reads what `-f` names.
"""
