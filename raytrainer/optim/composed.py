"""Optimizers that leave the arithmetic to inner ones, and are saved as if they did it themselves."""

from __future__ import annotations

from typing import Any

import torch


class Composed(torch.optim.Optimizer):
    """State by parameter: that of the inner optimizer which steps it, or which steps something in its place."""

    def inner_of(self, parameter: torch.Tensor) -> tuple[torch.optim.Optimizer, torch.Tensor]:
        """The inner optimizer of a parameter, and what it steps."""
        raise NotImplementedError

    def adopt_state(self, parameter: torch.Tensor) -> None:
        """After a step of the inner one: have its state as one's own. It is one dict, not a copy."""
        inner, key = self.inner_of(parameter)
        found = inner.state.get(key)
        if found is not None:
            self.state[parameter] = found

    def restore_state(self, parameter: torch.Tensor, saved: dict[str, Any]) -> None:
        """Take over the saved state of a parameter.

        Raises:
            ValueError: If it is that of another optimizer.
        """
        inner, key = self.inner_of(parameter)
        if isinstance(inner, Composed):
            inner.restore_state(key, saved)
        else:
            inner.state[key] = saved
        self.adopt_state(parameter)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state as it was saved: in its own dtypes, which are not those of the parameters."""
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
