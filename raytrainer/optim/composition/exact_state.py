"""Optimizers whose state is restored as it was saved, in its own dtypes."""

from __future__ import annotations

from typing import Any

import torch


class OwnState(torch.optim.Optimizer):
    """State by parameter in fp32 beside parameters of any dtype; torch would cast it to the dtype of the parameter."""

    def restore_state(self, parameter: torch.Tensor, saved: dict[str, Any]) -> None:
        """Take over the saved state of a parameter."""
        if saved:
            self.state[parameter] = saved

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state.

        Raises:
            ValueError: If it is that of other parameters.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        if len(parameters) != len(numbers):
            raise ValueError(f"the state is of {len(numbers)} parameters, and there are {len(parameters)}")
        for parameter, number in zip(parameters, numbers, strict=True):
            saved = {
                key: value.to(parameter.device) if isinstance(value, torch.Tensor) and value.dim() else value
                for key, value in state_dict["state"].get(number, {}).items()
            }
            self.restore_state(parameter, saved)
        for group, saved_group in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in saved_group.items() if key != "params"})
