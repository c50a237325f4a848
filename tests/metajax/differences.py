"""Derivatives of plain code, in double precision, for the engine's to be compared with."""

import jax
import jax.numpy as jnp
import numpy as np


def to_x64(tree):
    def widen(leaf):
        return np.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(widen, tree)


def directional_error(objective, gradient, params, key):
    """Relative error of ⟨gradient, v⟩ against a central difference, for a random direction v."""
    leaves, structure = jax.tree.flatten(jax.device_get(params))
    ends = np.cumsum([leaf.size for leaf in leaves])
    flat = np.asarray(jax.random.normal(key, (ends[-1],)))
    direction = [
        part.reshape(leaf.shape)
        for part, leaf in zip(np.split(flat, ends[:-1]), leaves, strict=True)
    ]

    def along(epsilon):
        moved = [p + epsilon * d for p, d in zip(leaves, direction, strict=True)]
        return float(objective(jax.tree.unflatten(structure, moved)))

    # Fourth-order central difference: truncation O(ε⁴), rounding O(1e-16 / ε).
    h = 3e-7
    numeric = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    slopes = jax.tree.leaves(jax.device_get(gradient))
    analytic = sum(np.vdot(g, d) for g, d in zip(slopes, direction, strict=True))
    return abs(numeric - analytic) / abs(numeric)
