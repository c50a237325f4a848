"""How often each random key of a traced function is used."""

import collections

import jax
from jax.extend import core

_USES = ("random_bits", "random_split", "random_fold_in")


def spent_twice(function, *args):
    """Of the keys that `function(*args)` has, how many it draws from, splits or folds twice.

    jax counts `fold_in` as no use, but `fold_in(key, i)` is `split(key, n)[i]`.
    """
    uses = collections.Counter()
    _count(jax.make_jaxpr(function)(*args).jaxpr, {}, uses)
    return sum(count > 1 for count in uses.values())


def _count(jaxpr, values, uses):
    """Adds the uses of a program whose variables, of this call of it, are `values`."""

    def value(var):
        return None if isinstance(var, core.Literal) else values.setdefault(var, object())

    for equation in jaxpr.eqns:
        if equation.primitive.name in _USES:
            uses[value(equation.invars[0])] += 1
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            body = getattr(inner, "jaxpr", inner)
            if hasattr(body, "eqns"):
                handed_on = equation.primitive.name in ("jit", "pjit", "closed_call")
                given = map(value, equation.invars) if handed_on else ()
                _count(body, dict(zip(body.invars, given, strict=False)), uses)
