"""Which state a resumed optimizer gets: exactly what was saved, in the dtypes it was saved in."""

from __future__ import annotations

from typing import Any

import torch

COUNTER = "step"
"""The key under which torch's optimizers count their steps."""


class ExactStateOptimizer(torch.optim.Optimizer):
    """An optimizer that restores its state unchanged; torch's own would cast it to the dtype of the parameter."""

    def restore_state(self, parameter: torch.Tensor, saved: dict[str, Any]) -> None:
        """Restore the saved state of one parameter.

        Args:
            parameter: Any parameter ``[...]`` of the optimizer.
            saved: Key -> tensor or number; empty if the parameter had no state.
        """
        if saved:
            self.state[parameter] = saved

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of all parameters.

        Raises:
            ValueError: If the state is that of another number of parameters.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        if len(parameters) != len(numbers):
            raise ValueError(
                f"the state has {len(numbers)} parameters, but the optimizer has {len(parameters)}"
            )
        for parameter, number in zip(parameters, numbers, strict=True):
            saved = {
                # What counts steps stays on the CPU, as torch's optimizers have it.
                key: value.to(parameter.device)
                if isinstance(value, torch.Tensor) and key != COUNTER
                else value
                for key, value in state_dict["state"].get(number, {}).items()
            }
            self.restore_state(parameter, saved)
        for group, saved_group in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in saved_group.items() if key != "params"})
