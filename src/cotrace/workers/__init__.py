"""Workers: the same problem, its batches run by Ray actors that hold a replica of the model each."""

from cotrace.workers.replicas import distributed
from cotrace.workers.workers import Workers

__all__ = ["Workers", "distributed"]
