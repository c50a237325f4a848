"""Meta-learning algorithms, one file each: factories of pure functions."""

from .maml import maml as maml
from .multitask import multitask as multitask
from .reptile import reptile as reptile

__all__ = ["maml", "multitask", "reptile"]
