"""Envs of our own: small tasks that ask for what the usual ones do not, such as memory."""
