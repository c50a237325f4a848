"""Derivatives of plain code, in double precision, for the engine's to be compared with."""

import jax
import jax.numpy as jnp
import optax


def to_x64(tree):
    def widen(leaf):
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(widen, tree)


def directional_error(objective, gradient, params, key):
    """Relative error of ⟨gradient, v⟩ against a central difference, for a random direction v."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    direction = jax.tree.unflatten(
        structure,
        [
            jax.random.normal(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ],
    )

    def along(epsilon):
        return objective(jax.tree.map(lambda p, d: p + epsilon * d, params, direction))

    # Fourth-order central difference: truncation O(ε⁴), rounding O(1e-16 / ε).
    h = 3e-6
    numeric = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    analytic = optax.tree.vdot(gradient, direction)
    return abs(float(numeric - analytic)) / abs(float(numeric))
