"""Meta-learning algorithms, one file each: factories of pure functions."""

from .anil import anil as anil
from .cavia import cavia as cavia
from .maml import maml as maml
from .meta_sgd import meta_sgd as meta_sgd
from .multitask import multitask as multitask
from .reptile import reptile as reptile

__all__ = ["anil", "cavia", "maml", "meta_sgd", "multitask", "reptile"]
