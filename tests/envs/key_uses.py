"""How often each random key of a traced function is used."""

import collections

import jax
from jax.extend import core

_USES = ("random_bits", "random_split", "random_fold_in")
_PARTS = ("slice", "squeeze", "reshape", "broadcast_in_dim")  # the same part of the same keys
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def spent_twice(function, *args):
    """Of the keys that `function(*args)` has, how many it draws from, splits or folds twice.

    jax counts `fold_in` as no use, but `fold_in(key, i)` is `split(key, n)[i]`. A key from outside
    a loop that is used in its body counts as used twice.
    """
    uses = collections.Counter()
    _count(jax.make_jaxpr(function)(*args).jaxpr, {}, uses, {})
    return sum(count > 1 for count in uses.values())


def _count(jaxpr, values, uses, parts):
    """Adds the uses of a program whose variables, in this call of it, are `values`."""

    def value(var):
        return None if isinstance(var, core.Literal) else values.setdefault(var, object())

    def count(body, given, into=uses):
        _count(body, dict(zip(body.invars, given, strict=False)), into, parts)

    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        given = [value(var) for var in equation.invars]
        if name in _USES:
            uses[given[0]] += 1
        elif name in _PARTS and len(equation.invars) == 1:
            part = (given[0], name, str(params))
            values[equation.outvars[0]] = parts.setdefault(part, object())
        elif name == "cond":
            branches = [collections.Counter() for _ in params["branches"]]
            for branch, own in zip(params["branches"], branches, strict=True):
                count(branch.jaxpr, given[1:], own)
            for key in set().union(*branches):
                uses[key] += max(own[key] for own in branches)
        elif name in ("scan", "while"):
            scan = name == "scan"
            body = params["jaxpr" if scan else "body_jaxpr"]
            constants = params["num_consts" if scan else "body_nconsts"]
            # What is scanned over is another key at each turn.
            handed = given[: constants + params["num_carry"]] if scan else given
            handed = handed if scan else handed[params["cond_nconsts"] :]
            within = collections.Counter()
            count(body.jaxpr, handed, within)
            for key, times in within.items():
                uses[key] += times + (key in handed[:constants])
        else:
            for inner in jax.tree.leaves(params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
                body = getattr(inner, "jaxpr", inner)
                if hasattr(body, "eqns"):
                    count(body, given if name in _CALLS else ())
