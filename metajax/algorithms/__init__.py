"""Meta-learning algorithms, one file each: factories of pure functions."""

from .anil import anil as anil
from .cavia import cavia as cavia
from .emaml import emaml as emaml
from .imaml import imaml as imaml
from .learned_optimizer import learned_optimizer as learned_optimizer
from .maml import maml as maml
from .maml_trpo import maml_trpo as maml_trpo
from .meta_sgd import meta_sgd as meta_sgd
from .multitask import multitask as multitask
from .norml import norml as norml
from .promp import promp as promp
from .reptile import reptile as reptile
from .rl2 import rl2 as rl2

__all__ = [
    "anil",
    "cavia",
    "emaml",
    "imaml",
    "learned_optimizer",
    "maml",
    "maml_trpo",
    "meta_sgd",
    "multitask",
    "norml",
    "promp",
    "reptile",
    "rl2",
]
