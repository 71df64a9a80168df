"""The facts about a trainer that the checks see."""

from __future__ import annotations

from raytrainer.preflight.facts import overrides_of


def test_overrides_are_those_of_the_subclass():
    class Base:
        def compute_loss(self) -> None: ...

        def get_train_dataloader(self) -> None: ...

    class Mine(Base):
        def compute_loss(self) -> None: ...

    assert overrides_of(Mine, Base) == {"compute_loss"}
    assert overrides_of(Base, Base) == frozenset()
