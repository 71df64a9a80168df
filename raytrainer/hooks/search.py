"""Hooks of a hyperparameter search: what a trial's values change in its trainer, and what the search is told.

Both are called as in ``transformers``, except that the values are set in the trial's own process, before its workers
get the trainer: they may also decide how many workers there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from raytrainer.arguments.varied import fields_that_vary, with_values
from raytrainer.loop.boundary import report_evaluation
from raytrainer.trainer_protocol import TrainerParts


class SearchHooks(TrainerParts):
    """What happens before a trial trains, and after each of its evaluations."""

    def _hp_search_setup(self, trial: Any) -> None:
        """A trial's process: take over its hyperparameters, in the arguments and for ``model_init``.

        Args:
            trial: Name -> value; None outside of a search.
        """
        self._trial = trial
        known = fields_that_vary(self.args)
        given = cast("Mapping[str, Any]", trial or {})
        values = {name: value for name, value in given.items() if name in known}
        if values:
            self._use_arguments(with_values(self.args, values))

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        """All ranks: rank 0 tells the search what an evaluation gave, and a trial waits for the scheduler's decision.

        Args:
            trial: The hyperparameters of the trial; None outside of a search.
            step: Optimizer steps that are done.
            metrics: What ``evaluate()`` returned.
        """
        run = self._process.run
        if run is not None:
            report_evaluation(run, step, metrics)
