"""Environments as pure JAX functions: tasks are data, episodes are arrays."""
