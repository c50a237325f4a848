"""metajax: meta-reinforcement learning as one XLA program."""

from . import source as source  # before the code that it is a digest of

# isort: split
from . import baselines, distributions, estimators, networks, recurrent
from .algorithms import (
    anil,
    cavia,
    emaml,
    imaml,
    learned_optimizer,
    maml,
    maml_trpo,
    meta_sgd,
    multitask,
    norml,
    promp,
    reptile,
    rl2,
)
from .algorithms.hyper import meta_learned
from .checkpoints import load, save
from .compiling import compiler_options, keep_programs
from .evaluation import evaluate
from .groups import Weighting
from .inner import Inner, adam, adaptation, sgd
from .loggers import MetricsError
from .mapping import Mapping, task_mesh
from .problems import FunctionTasks, policy_gradient, q_learning, regression, sinusoid
from .scores import Adaptation
from .seals import CheckpointError
from .training import Interrupted, train
from .trust_region import TrustRegion
from .types import Divergence, Hyperparameter, MetaLearner, MetaState, Problem, Trace
from .weighting import gradnorm, uncertainty_weighting

__all__ = [
    "Adaptation",
    "CheckpointError",
    "Divergence",
    "FunctionTasks",
    "Hyperparameter",
    "Inner",
    "Interrupted",
    "Mapping",
    "MetaLearner",
    "MetaState",
    "MetricsError",
    "Problem",
    "Trace",
    "TrustRegion",
    "Weighting",
    "adam",
    "adaptation",
    "anil",
    "baselines",
    "cavia",
    "compiler_options",
    "distributions",
    "emaml",
    "estimators",
    "evaluate",
    "gradnorm",
    "imaml",
    "keep_programs",
    "learned_optimizer",
    "load",
    "maml",
    "maml_trpo",
    "meta_learned",
    "meta_sgd",
    "multitask",
    "networks",
    "norml",
    "policy_gradient",
    "promp",
    "q_learning",
    "recurrent",
    "regression",
    "reptile",
    "rl2",
    "save",
    "sgd",
    "sinusoid",
    "task_mesh",
    "train",
    "uncertainty_weighting",
]

__version__ = "0.1.0"
