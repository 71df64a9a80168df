"""The methods of a Trainer that are about the Hub: a repository, the model card, and the upload at the end.

Rank 0 does the work; on a driver the driver does, with the weights of the workers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raytrainer.hub.card import write_card
from raytrainer.hub.run_uploads import card_facts, open_repository, push_output_dir
from raytrainer.trainer_protocol import TrainerParts


class HubMethods(TrainerParts):
    """The repository of a trainer on the Hub."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository on the Hub, unless it exists, and set ``hub_model_id`` to its whole name.

        Args:
            token: May write there; ``hub_token``, or that of this process, by default.
            private: Who may see a new one; ``hub_private_repo`` by default.

        Raises:
            HubError: If the Hub does not answer, or refuses.
        """
        if self.is_world_process_zero():
            open_repository(self, token=token, private=private)

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
        """Write a draft of the model card, ``README.md`` in ``output_dir``; what is not given is found out.

        It has the hyperparameters, the table of evaluations, the last evaluation, and versions.
        """
        if self.is_world_process_zero():
            write_card(
                self,
                Path(str(self.args.output_dir)),
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
        **kwargs: Any,
    ) -> Any:
        """Save the model in ``output_dir``, write its card, and upload the directory without its checkpoints.

        All ranks call it; rank 0 uploads. On a driver the weights are fetched from the workers, and the driver
        uploads.

        Args:
            commit_message: Of the commit.
            blocking: Wait for the upload.
            token: May write there; ``hub_token``, or that of this process, by default.
            revision: The branch; ``hub_revision`` by default.
            private: Who may see a new repository; ``hub_private_repo`` by default.
            kwargs: For ``create_model_card``.

        Returns:
            The ``CommitInfo``, or a future of it if not blocking; None on other ranks than 0.

        Raises:
            HubError: If it failed. What was saved stays.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
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
