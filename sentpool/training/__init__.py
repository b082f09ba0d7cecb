"""Training sentence encoders: the Trainer, its data, and what happened.

>>> from sentpool.training import TrainingData
>>> TrainingData.of([("A cat sleeps.", "A kitten rests."), ("It rains.", "Rain falls.")])
TrainingData(2 pairs of data)
"""

from sentpool.training.data import TrainingData
from sentpool.training.history import History
from sentpool.training.trainer import Trainer

__all__ = ["History", "Trainer", "TrainingData"]
