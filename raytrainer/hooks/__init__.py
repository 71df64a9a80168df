"""What a user overrides: the hooks of the Trainer, each delegating in a few lines.

Every hook runs on the workers, on all ranks, dispatched through the user's own subclass. Names, signatures and the
moments at which they are called are those of ``transformers.Trainer``.
"""

from raytrainer.hooks.checkpoints import CheckpointHooks
from raytrainer.hooks.data import DataHooks
from raytrainer.hooks.evaluation import EvaluationHooks
from raytrainer.hooks.model_attributes import ModelAttributes
from raytrainer.hooks.optimizer import OptimizerHooks
from raytrainer.hooks.saving import SavingHooks
from raytrainer.hooks.search import SearchHooks
from raytrainer.hooks.step import StepHooks


class TrainerHooks(
    ModelAttributes,
    DataHooks,
    OptimizerHooks,
    StepHooks,
    EvaluationHooks,
    SavingHooks,
    CheckpointHooks,
    SearchHooks,
):
    """Everything that a subclass of the Trainer may override."""
