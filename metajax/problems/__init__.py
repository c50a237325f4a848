"""Meta-learning problems: factories of `Problem`."""

from .policy_gradient import Trajectories as Trajectories
from .policy_gradient import policy_gradient as policy_gradient
from .q_learning import q_learning as q_learning
from .regression import FunctionTasks as FunctionTasks
from .regression import regression as regression
from .regression import sinusoid as sinusoid

__all__ = [
    "FunctionTasks",
    "Trajectories",
    "policy_gradient",
    "q_learning",
    "regression",
    "sinusoid",
]
