"""NEFTune: noise on the input embeddings while a model trains, and at no other time.

Each number of the embeddings of a sequence gets ``uniform(-1, 1) * alpha / sqrt(L * d)``, where ``d`` is the width of
the embeddings and ``L`` the length of that sequence (https://arxiv.org/abs/2310.05914, section 2). ``L`` counts real
tokens: what a collator fills up makes the noise of a short sequence neither weaker nor reach the padding. With
sequences of one length this is what ``transformers.Trainer`` adds, from the same random numbers.

The noise lives in hooks, on the modules' outputs, so it is the same under every backend. Nothing of it is in a
``state_dict``; the random numbers are those of the process, which a checkpoint holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch import nn

from raytrainer.errors import ConfigurationError, EngagementError
from raytrainer.loop.model_traits import without_adapter


class EmbeddingNoise:
    """The noise of one run on one model.

    Args:
        model: The user's model, wrapped in place or not at all.
        alpha: Strength of the noise; 5 to 15 in the paper.

    Raises:
        ConfigurationError: If the model does not say what its input embeddings are.
    """

    def __init__(self, model: nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self.modules = embedding_modules(model)
        self._model = model
        config = getattr(without_adapter(model), "config", None)
        self._has_decoder = bool(getattr(config, "is_encoder_decoder", False))
        self._lengths_of: list[torch.Tensor | None] = []
        self._was_called = False

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        """Add noise while it lasts; afterwards, however it ends, no hook is left."""
        handles = [
            self._model.register_forward_pre_hook(self._note_inputs, with_kwargs=True),
            self._model.register_forward_hook(self._check_reached),
            *(module.register_forward_hook(self._add_noise) for module in self.modules),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._lengths_of = []

    def describe(self) -> str:
        """What is on, for the table of a run."""
        names = sorted({type(module).__name__ for module in self.modules})
        return f"noise on {', '.join(names)}, alpha {self.alpha:g}"

    def _note_inputs(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not model.training:
            return
        self._was_called = False
        self._lengths_of = [real_tokens(kwargs)]
        if self._has_decoder:
            # The encoder embeds first.
            self._lengths_of.append(real_decoder_tokens(kwargs))

    def _add_noise(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not module.training:
            return None
        self._was_called = True
        real = self._lengths_of.pop(0) if self._lengths_of else None
        return output + noise_for(output, self.alpha, real)

    def _check_reached(self, model: nn.Module, args: Any, output: Any) -> None:
        if model.training and not self._was_called:
            raise EngagementError(
                f"neftune_noise_alpha={self.alpha:g} adds noise to what get_input_embeddings() of "
                f"{type(self._model).__name__} gives, and its forward pass did not use that module, so nothing was "
                "added. Pass input_ids and not inputs_embeds, correct get_input_embeddings(), or leave "
                "neftune_noise_alpha out."
            )


def noise_for(embeddings: torch.Tensor, alpha: float, real: torch.Tensor | None) -> torch.Tensor:
    """Draw the noise of a batch.

    Args:
        embeddings: ``[batch, seq, width]``.
        alpha: Strength.
        real: The number of tokens of the sequence that each position belongs to, 0 for padding, ``[batch, seq]``;
            None when all positions are one sequence.

    Returns:
        Noise like ``embeddings``; 0 at padding.
    """
    uniform = torch.zeros_like(embeddings).uniform_(-1, 1)
    width = embeddings.shape[-1]
    if real is None or real.shape != embeddings.shape[:-1]:
        length = embeddings.shape[1] if embeddings.dim() > 2 else embeddings.shape[0]
        return uniform * (alpha / (length * width) ** 0.5)
    lengths = real.to(device=embeddings.device, dtype=torch.float32)
    scale = torch.where(lengths > 0, alpha / (lengths.clamp(min=1) * width).sqrt(), 0.0)
    return uniform * scale.unsqueeze(-1).to(embeddings.dtype)


def real_tokens(inputs: dict[str, Any]) -> torch.Tensor | None:
    """How long the sequence is that each position belongs to, from what a model is called with.

    Returns:
        ``[batch, seq]``, 0 at padding; None where nothing says that a row is anything but one whole sequence.
    """
    mask = inputs.get("attention_mask")
    if torch.is_tensor(mask) and mask.dim() == 2:
        return _lengths(mask)
    positions = inputs.get("position_ids")
    if mask is None and torch.is_tensor(positions) and positions.dim() == 2:
        return _packed_lengths(positions)
    return None


def real_decoder_tokens(inputs: dict[str, Any]) -> torch.Tensor | None:
    """The same, ``[batch, tokens]``, for a decoder, whose inputs are often made from the labels."""
    mask = inputs.get("decoder_attention_mask")
    if not torch.is_tensor(mask) and torch.is_tensor(inputs.get("labels")):
        mask = inputs["labels"] != -100
    return _lengths(mask) if torch.is_tensor(mask) and mask.dim() == 2 else None


def _lengths(mask: torch.Tensor) -> torch.Tensor:
    is_real = (mask != 0).to(torch.int64)
    return is_real * is_real.sum(dim=1, keepdim=True)


def _packed_lengths(positions: torch.Tensor) -> torch.Tensor:
    """Lengths in rows that hold several sequences, each of which begins at position 0."""
    starts = (positions == 0).to(torch.int64)
    starts[:, 0] = 1
    number = starts.cumsum(dim=1) - 1
    counts = torch.zeros_like(positions, dtype=torch.int64).scatter_add_(1, number, torch.ones_like(number))
    return counts.gather(1, number)


def embedding_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that embed a model's input: what it names, and others that share its weight.

    Raises:
        ConfigurationError: If the model names none.
    """
    inner: Any = without_adapter(model)
    named = None
    if hasattr(inner, "get_input_embeddings"):
        with contextlib.suppress(NotImplementedError):
            named: object = inner.get_input_embeddings()
    if not isinstance(named, nn.Module):
        raise ConfigurationError(
            f"neftune_noise_alpha adds noise to input embeddings, and {type(inner).__name__} has no "
            "get_input_embeddings() that returns a module. Give it one, or leave neftune_noise_alpha out."
        )
    weight = getattr(named, "weight", None)
    within = set(named.modules())
    sharing = [
        module
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module not in within and module.weight is weight
    ]
    return [named, *sharing]


def check_noise(alpha: float | None, model: Any) -> None:
    """Check on the driver that noise can be added to a model that is there already.

    Raises:
        ConfigurationError: If it names no input embeddings.
    """
    if alpha is not None and isinstance(model, nn.Module):
        embedding_modules(model)
