"""metajax: meta-reinforcement learning as one XLA program."""

from . import source as source  # before the code that it is a digest of

# isort: split
from . import baselines as baselines
from . import distributions as distributions
from . import estimators as estimators
from . import networks as networks
from . import recurrent as recurrent
from .algorithms import anil as anil
from .algorithms import cavia as cavia
from .algorithms import emaml as emaml
from .algorithms import imaml as imaml
from .algorithms import learned_optimizer as learned_optimizer
from .algorithms import maml as maml
from .algorithms import maml_trpo as maml_trpo
from .algorithms import meta_sgd as meta_sgd
from .algorithms import multitask as multitask
from .algorithms import norml as norml
from .algorithms import promp as promp
from .algorithms import reptile as reptile
from .algorithms import rl2 as rl2
from .algorithms.hyper import meta_learned as meta_learned
from .checkpoints import load as load
from .checkpoints import save as save
from .compiling import compiler_options as compiler_options
from .compiling import keep_programs as keep_programs
from .evaluation import evaluate as evaluate
from .groups import Weighting as Weighting
from .inner import Inner as Inner
from .inner import adam as adam
from .inner import adaptation as adaptation
from .inner import sgd as sgd
from .loggers import MetricsError as MetricsError
from .mapping import Mapping as Mapping
from .mapping import task_mesh as task_mesh
from .problems import FunctionTasks as FunctionTasks
from .problems import policy_gradient as policy_gradient
from .problems import q_learning as q_learning
from .problems import regression as regression
from .problems import sinusoid as sinusoid
from .scores import Adaptation as Adaptation
from .seals import CheckpointError as CheckpointError
from .training import Interrupted as Interrupted
from .training import train as train
from .trust_region import TrustRegion as TrustRegion
from .types import Divergence as Divergence
from .types import Hyperparameter as Hyperparameter
from .types import MetaLearner as MetaLearner
from .types import MetaState as MetaState
from .types import Problem as Problem
from .types import Trace as Trace
from .weighting import gradnorm as gradnorm
from .weighting import uncertainty_weighting as uncertainty_weighting

__version__ = "0.1.0"
