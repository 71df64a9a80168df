"""The Trainer's Hub methods: create the repository, write the model card, upload the output directory.

Rank 0 does the work; on a driver the driver does, with the weights of the workers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers.utils import PushInProgress

from raytrainer.checkpoint.published import written_to
from raytrainer.hub.card import CARD_NAME, write_card
from raytrainer.hub.export_uploads import card_facts, open_repository, push_output_dir
from raytrainer.trainer_protocol import TrainerParts


class HubMethods(TrainerParts):
    """Methods for the trainer's repository on the Hub."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository on the Hub if it does not exist, and set ``hub_model_id`` to its full name.

        Args:
            token: A token with write access; ``hub_token``, or the token of this process, by default.
            private: Whether a new repository is private; ``hub_private_repo`` by default.

        Raises:
            HubError: If the Hub does not answer, or refuses.
        """
        if self.is_world_process_zero():
            open_repository(self, token=token, private=private)

    @property
    def push_in_progress(self) -> PushInProgress | None:
        """The uploads of this process that have not ended, with ``is_done`` and ``wait_until_done``; None without."""
        if self._process.own_push is not None:
            return self._process.own_push
        hub = self._process.hub
        pending = hub.queue.pending if hub is not None else []
        return PushInProgress(cast("Any", pending)) if pending else None

    @push_in_progress.setter
    def push_in_progress(self, push: PushInProgress | None) -> None:
        self._process.own_push = push

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write a draft of the model card, ``README.md`` in ``output_dir``.

        It has the hyperparameters, the results of all evaluations, and the versions of the packages.

        Args:
            language: Language of the model.
            license: License of the model; that of the base model by default.
            tags: Tags of the card; those of an existing card are kept.
            model_name: Title of the card; the name of the output directory by default.
            finetuned_from: Name of the base model on the Hub; the name the model was loaded from by default.
            tasks: Tasks, such as "text-classification"; inferred from the model by default.
            dataset_tags: Names of the datasets on the Hub; inferred from the training data by default.
            dataset: Titles of the datasets.
            dataset_args: Their configurations.
        """
        if self.is_world_process_zero():
            with written_to(str(self.args.output_dir), with_files=[CARD_NAME]) as directory:
                write_card(
                    self,
                    Path(directory),
                    world_size=self._process.trained_world_size or self.args.world_size,
                    language=language,
                    license=license,
                    tags=tags,
                    model_name=model_name,
                    finetuned_from=finetuned_from,
                    tasks=tasks,
                    dataset_tags=dataset_tags,
                    dataset=dataset,
                    dataset_args=dataset_args,
                )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: object,
    ) -> Any:
        """Save the model in ``output_dir``, write its card, and upload the directory without its checkpoints.

        All ranks call it; rank 0 uploads. On a driver the weights are fetched from the workers, and the driver
        uploads.

        Args:
            commit_message: The commit message.
            blocking: Wait for the upload.
            token: A token with write access; ``hub_token``, or the token of this process, by default.
            revision: The branch; ``hub_revision`` by default.
            private: Whether a new repository is private; ``hub_private_repo`` by default.
            kwargs: Arguments of ``create_model_card``.

        Returns:
            The ``CommitInfo``, or a future of it if not blocking; None on ranks other than 0.

        Raises:
            HubError: If the upload failed; the files in ``output_dir`` stay.
        """
        handler: Any = self.callback_handler
        handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        repository = open_repository(self, token=token, private=private)
        self.create_model_card(**card_facts(self, kwargs))
        return push_output_dir(
            self,
            repository,
            message=commit_message or "End of training",
            revision=revision,
            blocking=blocking,
        )
