"""The algorithms by name, and the options that each of them takes."""

from __future__ import annotations

__all__ = ["ALGORITHMS", "BY_MEMORY", "OPTIONS", "WITH", "unit_of"]

ALGORITHMS = {
    "maml": "MAML: second-order gradient through the inner steps (Finn et al. 2017)",
    "fomaml": "MAML with the first-order gradient (Finn et al. 2017, section 5.2)",
    "maml++": "MAML with a learned rate for each layer and inner step (Antoniou et al. 2019)",
    "meta-sgd": "MAML with a learned rate for each parameter (Li et al. 2017)",
    "learned-optimizer": "MAML with a learned recurrent update rule (Andrychowicz et al. 2016)",
    "norml": "MAML with a learned advantage beside that of rewards (Yang et al. 2019)",
    "anil": "MAML that adapts the last layer alone (Raghu et al. 2020)",
    "cavia": "MAML that adapts a context vector alone (Zintgraf et al. 2019)",
    "imaml": "MAML by the implicit gradient, inner steps unseen (Rajeswaran et al. 2019)",
    "emaml": "MAML that credits the sampling before adaptation too (Stadie et al. 2018)",
    "maml-trpo": "MAML with an outer step as long as a trust region allows (Finn et al. 2017)",
    "promp": "MAML by several clipped steps on the same batches (Rothfuss et al. 2019)",
    "reptile": "Reptile: toward where adaptation ends (Nichol et al. 2018)",
    "reptile-serial": "Reptile, the tasks of an update one after another (Nichol et al. 2018)",
    "rl2": "RL²: a recurrent policy remembers, by PPO over whole trials (Duan et al. 2016)",
    "multitask": "joint training without inner steps, fine-tuned at evaluation",
    "oracle": "joint training of a policy that is given the task (Finn et al. 2017, section 5.3)",
    "multitask-uncertainty": "the same, tasks weighed by their uncertainty (Kendall et al. 2018)",
    "multitask-gradnorm": "the same, weights by norms and rates of training (Chen et al. 2018)",
}

BY_MEMORY = ("rl2",)  # which adapt without inner steps, see `trials`
_BY_STEPS = tuple(name for name in ALGORITHMS if name not in BY_MEMORY)
_BY_RATIO = ("maml-trpo", "promp")  # whose surrogate is the probability ratio
_BY_REPTILE = ("reptile", "reptile-serial")
_BY_ADAM = tuple(name for name in ALGORITHMS if name not in ("maml-trpo", *_BY_REPTILE))
_BY_SURROGATE = tuple(name for name in _BY_STEPS if name not in _BY_RATIO)
# What `algorithms.maml` differentiates.
_BY_MAML = ("maml", "maml++", "meta-sgd", "learned-optimizer", "norml", "anil", "cavia")

# The algorithms that use an option of a configuration. The others would ignore it.
OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("outer_learning_rate", "gradient_clip"), _BY_ADAM),
    "reptile_step": _BY_REPTILE,
    "final_rate": (*_BY_ADAM, *_BY_REPTILE),
    "step_weights": (*_BY_MAML, "fomaml"),
    "annealing": _BY_MAML,
    "context": ("cavia",),
    "proximal": ("imaml",),
    "damping": ("imaml",),
    "exploration": ("emaml",),
    "learn": (*_BY_MAML, "emaml"),
    "epochs": ("promp", *BY_MEMORY),
    "clip": ("promp", *BY_MEMORY),
    "minibatches": BY_MEMORY,
    "value_weight": BY_MEMORY,
    **dict.fromkeys(("inner_learning_rate", "inner_steps", "skip", "initialisation"), _BY_STEPS),
    # Reptile moves only what a task adapts.
    "adapt_std": tuple(name for name in _BY_STEPS if name not in ("cavia", *_BY_REPTILE)),
    **dict.fromkeys(("baseline", "normalise_advantage"), _BY_STEPS),
    "penalty": ("promp",),
    "penalty_target": ("promp",),
    "trust_region": ("maml-trpo",),
    "surrogate": _BY_SURROGATE,
    "dice_lambda": _BY_SURROGATE,
    "groups": ("multitask-uncertainty", "multitask-gradnorm"),
}


_NOT_OF_REWARDS = ("surrogate", ("lvc", "log_prob", "loaded_dice"))

# The values of another option that an option acts with; with any other it would be ignored.
WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "dice_lambda": ("surrogate", ("loaded_dice",)),
    **dict.fromkeys(("gae_lambda", "baseline", "normalise_advantage"), _NOT_OF_REWARDS),
    "temperature": ("outer", ("policy",)),
}


def unit_of(algorithm: str) -> str:
    """What an algorithm takes one more of to adapt further."""
    return "episode" if algorithm in BY_MEMORY else "inner step"
