"""What a person reads when a model gives no loss."""

from __future__ import annotations

import pytest

from raytrainer import ConfigurationError
from raytrainer.hooks.step import loss_of


def test_a_model_without_labels_is_told_with_the_columns_that_it_did_not_get():
    with pytest.raises(ConfigurationError, match=r"it did not get \['sentiment'\]: rename .* to 'labels'"):
        loss_of({"logits": None}, {"input_ids": None}, ["input_ids", "sentiment"])
    with pytest.raises(ConfigurationError, match=r"override compute_loss\.$"):
        loss_of({"logits": None}, {"input_ids": None})
