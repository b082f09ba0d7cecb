"""Training sentence encoders: data, batches, checkpoints and what happened.

>>> from sentpool.training import TrainingData
>>> TrainingData.of([("A cat sleeps.", "A kitten rests."), ("It rains.", "Rain falls.")])
TrainingData(2 pairs of data)
"""

from sentpool.training.data import TrainingData
from sentpool.training.history import History

__all__ = ["History", "TrainingData"]
