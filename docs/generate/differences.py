"""What is better than in ``transformers``: each difference once, with the test that shows it.

Keys are those of the compatibility page: the name of an argument, ``Trainer(name)`` for one of the constructor,
``Trainer.name`` for a method, ``on_*`` for an event, ``optim=name`` for an optimizer. A test holds that every proof
exists. This file decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """What raytrainer does where ``transformers`` does something else."""

    what: str
    """A sentence."""
    proof: str
    """``path::test`` of the test that shows it."""


_LOW_RANK = Difference(
    "Its state consists of tensors and numbers, so a run resumes bitwise; `transformers` pickles the projector and "
    "cannot resume. Also runs on CPUs, in 8 bits too.",
    "tests/optim/test_catalogue.py::test_an_optimizer_trains_and_resumes_bitwise",
)
_LAYERWISE = Difference(
    "Follows the schedule, resumes bitwise, and trains on several workers; `transformers` trains it at a constant "
    "rate, on one GPU, and does not save its state.",
    "tests/optim/test_catalogue.py::test_an_optimizer_trains_and_resumes_bitwise",
)
_LOMO = Difference(
    "On several workers gradients are averaged before each update, so weights stay equal; in `transformers` they "
    "drift apart. Also runs on CPUs.",
    "tests/sharding/test_optimizers.py::test_a_cell_trains_as_one_worker_or_is_refused",
)

_SEQUENCES = Difference(
    "Only `Seq2SeqTrainer` accepts it; other trainers refuse it, where `transformers.Trainer` silently ignores it.",
    "tests/preflight/test_construction.py::test_what_only_the_seq2seq_trainer_does_is_refused_elsewhere",
)
_PAGED = Difference(
    "Refused on a CPU, where nothing would be paged.",
    "tests/optim/test_catalogue.py::test_a_paged_optimizer_on_the_cpu_is_refused",
)

DIFFERENCES: dict[str, Difference] = {
    # arguments
    "enable_jit_checkpoint": Difference(
        "Saves after the step in which SIGTERM came, where `transformers` waits three seconds first; all ranks save "
        "after the same step, whichever of them got it. After SIGTERM to a Ray worker the run goes on in other "
        "workers, elsewhere if its node goes; after SIGTERM to the script it stops, and the script ends with "
        "`sigterm_exit_code` (143), where that of `transformers` goes on.",
        "tests/driver/test_worker_group.py::"
        "test_sigterm_to_one_worker_makes_all_ranks_save_and_others_go_on_which_is_no_failure",
    ),
    "logging_nan_inf_filter": Difference(
        "Off by default: a NaN loss is logged as NaN, with its step and rank; `transformers` logs 0.0.",
        "tests/loop/test_events.py::test_a_nan_loss_is_logged_as_nan_and_its_step_and_rank_are_said",
    ),
    "fp16": Difference(
        "Refused on a worker without a GPU, where `transformers` silently trains in fp32.",
        "tests/arguments/test_process.py::test_fp16_on_cpu_is_refused",
    ),
    "dataloader_num_workers": Difference(
        "What a dataset or a collator draws at random follows from the seed, the epoch and the sample: the same in any "
        "number of loading processes, and on resume; in `transformers` it changes with both.",
        "tests/data/test_draws.py::test_samples_draw_the_same_on_any_number_of_loading_processes",
    ),
    "tf32": Difference(
        "Accepted on the driver, checked on the worker.",
        "tests/arguments/test_process.py::test_tf32_without_such_a_gpu_is_refused",
    ),
    "bf16": Difference(
        "Accepted on the driver, checked on the worker: a laptop may request it for GPUs in a cluster.",
        "tests/arguments/test_training_arguments.py::test_gpu_arguments_are_constructed_on_a_driver_without_a_gpu",
    ),
    "per_device_eval_batch_size": Difference(
        "The loss of an evaluation is the mean over target items, so it does not depend on the batch size; in "
        "`transformers` it does.",
        "tests/evaluation/test_numbers.py::test_the_loss_is_the_mean_over_tokens_at_any_batch_size",
    ),
    "gradient_accumulation_steps": Difference(
        "Does not change the loss, even if `compute_loss` or the model ignores `num_items_in_batch`.",
        "tests/loop/test_loss_scaling.py::test_an_override_that_takes_the_count_and_ignores_it",
    ),
    "label_names": Difference(
        "Steps and micro-batches whose labels are all -100 are named and left out of the mean loss, also of "
        "`train_loss`, where `transformers` counts such a step as a loss of 0. The step itself is taken, with "
        "gradients of 0, and its own log has a loss of 0.0, as in `transformers`.",
        "tests/loop/test_targets.py::test_a_step_without_a_target_is_left_out_of_the_mean_and_its_samples_are_named",
    ),
    "predict_with_generate": _SEQUENCES,
    "sortish_sampler": _SEQUENCES,
    "full_determinism": Difference(
        "The variables that CUDA reads for it are in the environment of a Ray worker when its process starts.",
        "tests/runtimes/test_same_losses.py::test_ray_torchrun_and_one_process_give_the_same_losses",
    ),
    "accelerator_config": Difference(
        "With `even_batches=False` two ranks have the losses of one, even when one of them has no sample left; in "
        "`transformers` they then differ. `dispatch_batches` also sends ragged batches, and is off by default, even "
        "for streams; the reported batch size is the one that `split_batches` divides. `use_seedable_sampler=False` "
        "is refused.",
        "tests/data/test_two_ranks.py::test_without_fill_ups_two_ranks_have_the_losses_of_one",
    ),
    "optim": Difference(
        "Every name that is not refused below resumes bitwise, and its backends are listed; see "
        "[optimizers](optimizers.md).",
        "tests/optim/test_catalogue.py::test_an_optimizer_trains_and_resumes_bitwise",
    ),
    "optim_args": Difference(
        "Checked by name and type: an unknown key is an error that suggests the nearest one.",
        "tests/optim/test_catalogue.py::test_a_choice_that_cannot_be_done_is_refused",
    ),
    "optim_target_modules": Difference(
        "An entry that matches no module is an error.",
        "tests/optim/test_catalogue.py::test_a_choice_that_cannot_be_done_is_refused",
    ),
    "weight_decay": Difference(
        "Also applies to GaLore, whose groups `transformers` builds without it.",
        "tests/optim/test_catalogue.py::test_an_optimizer_lowers_the_loss_and_its_weight_decay_has_an_effect",
    ),
    "fsdp": Difference(
        "Also shards on CPUs, and a run shows what is engaged; `transformers` silently trains plain DDP there.",
        "tests/sharding/test_parity.py::test_two_shards_give_the_numbers_of_ddp",
    ),
    "deepspeed": Difference(
        "A key that DeepSpeed would ignore is an error.",
        "tests/dialects/test_deepspeed.py::test_what_deepspeed_would_ignore_or_cannot_do_is_an_error",
    ),
    "save_strategy": Difference(
        "A checkpoint is committed as a whole: whenever a save is killed, the checkpoint is complete or absent.",
        "tests/checkpoint/test_crash.py::"
        "test_after_a_kill_anywhere_in_a_save_the_checkpoint_is_there_wholly_or_not_at_all",
    ),
    "restore_callback_states_from_checkpoint": Difference(
        "What is restored, or dropped where it is off, is said. A run that early stopping ended stays ended when it is "
        "resumed, unless its patience was raised; in `transformers` it trains on.",
        "tests/callbacks/test_early_stopping.py::test_a_run_that_early_stopping_ended_stays_ended",
    ),
    "on_save": Difference(
        "Large saves are written while training goes on (`async_save`): it comes when the checkpoint is there, some "
        "steps after it was due, with the `state` of the save.",
        "tests/loop/test_saves_beside.py::"
        "test_on_save_comes_with_the_checkpoint_in_place_the_state_of_its_step_and_before_the_end",
    ),
    "save_total_limit": Difference(
        "With 1, a run that was stopped before its last step keeps its newest checkpoint beside the best one, so that "
        "it can be resumed; after early stopping or a callback's stop `transformers` deletes it.",
        "tests/loop/test_train.py::test_a_run_that_was_stopped_keeps_its_newest_and_its_best_checkpoint",
    ),
    "output_dir": Difference(
        "Checked for write access before anything starts. May be the URI of a bucket (`s3://`, `gs://`, `az://`, ...): "
        "checkpoints are committed to it by the same rule, and resumed, pruned, exported and evaluated from.",
        "tests/checkpoint/remote/test_bucket.py::"
        "test_a_run_into_a_bucket_has_the_losses_and_files_of_one_into_a_directory",
    ),
    # constructor
    "Trainer(args)": Difference(
        "An unknown argument is an error that suggests the nearest names.",
        "tests/arguments/test_aliases.py::test_unknown_argument_is_named_with_the_nearest",
    ),
    "Trainer(model)": Difference(
        "May also be a Hub id or a path, which the workers load.",
        "tests/sharding/test_parity.py::test_a_model_loaded_in_shards_trains_as_one_loaded_whole",
    ),
    "Trainer(optimizers)": Difference(
        "An optimizer without any parameter of the model, and a schedule of another optimizer, are refused; "
        "`transformers` trains nothing, or at a constant rate. Trainable parameters that it does not have are counted.",
        "tests/preflight/test_bad_inputs.py::test_it_gives_its_message_before_any_worker_starts",
    ),
    "Trainer(callbacks)": Difference(
        'A callback may return a dict of control flags, such as `{"should_training_stop": True}`.',
        "tests/callbacks/test_handler.py::test_the_guides_callback_stops_at_its_step",
    ),
    "Trainer(compute_loss_func)": Difference(
        "May leave out `num_items_in_batch`, and may return the mean of its micro-batch: whether it divides by the "
        "count is observed. `transformers` takes every loss as divided, so a mean is too large by the number of "
        "micro-batches.",
        "tests/loop/test_loss_scaling.py::test_a_compute_loss_func_that_returns_a_mean",
    ),
    "Trainer(train_dataset)": Difference(
        "A finite stream resumes in a later pass, with the losses of an uninterrupted run.",
        "tests/hooks/test_differences.py::test_a_finite_stream_resumes_in_its_second_pass",
    ),
    # methods
    "Trainer.hyperparameter_search": Difference(
        "A trial has as many Ray workers as the trainer, and survives kills. Afterwards the trainer holds the best "
        "arguments; `transformers` leaves those of the last trial, one process each. Metrics are not summed up.",
        "tests/tune/test_run.py::test_trials_of_one_worker_are_the_runs_that_they_would_be_alone",
    ),
    "Trainer.train": Difference(
        "`resume_from_checkpoint=True` uses the newest valid checkpoint, and names those that are damaged; "
        '"auto" also begins a new run where there is none.',
        "tests/checkpoint/test_scan.py::test_a_damaged_newest_is_passed_over_with_a_message_and_the_one_before_is_used",
    ),
    "Trainer.create_optimizer": Difference(
        "Parameters that a callback unfreezes later become groups of the optimizer, and follow its schedule; in "
        "`transformers` they are never stepped.",
        "tests/loop/test_trainable.py::test_what_is_unfrozen_is_trained_as_if_it_had_been_in_the_optimizer_all_along",
    ),
    "Trainer.compute_loss": Difference(
        "An override may leave `num_items_in_batch` out of its signature, as in the guide of `transformers`.",
        "tests/loop/test_loss_scaling.py::test_the_guides_custom_trainer",
    ),
    "Trainer.log": Difference(
        "An override may take only the logs.",
        "tests/hooks/test_differences.py::test_an_override_of_log_may_take_the_logs_alone",
    ),
    "Trainer.evaluate": Difference(
        "The loss is the mean over target items, at any batch size and on any number of workers.",
        "tests/evaluation/test_numbers.py::test_the_loss_is_the_mean_over_tokens_at_any_batch_size",
    ),
    # optimizers
    **dict.fromkeys(("optim=galore_adamw", "optim=galore_adamw_8bit", "optim=galore_adafactor"), _LOW_RANK),
    **dict.fromkeys(
        (
            "optim=galore_adamw_layerwise",
            "optim=galore_adamw_8bit_layerwise",
            "optim=galore_adafactor_layerwise",
        ),
        _LAYERWISE,
    ),
    **dict.fromkeys(("optim=lomo", "optim=adalomo"), _LOMO),
    **{
        f"optim=paged_{kind}_{bits}": _PAGED
        for kind in ("adamw", "ademamix", "lion")
        for bits in ("8bit", "32bit")
    },
}
"""Key of the compatibility page -> what is better."""

ELSEWHERE: dict[str, Difference] = {
    "on_init_end": Difference(
        "Called in the constructor, also on a driver; trackers hear it in the process that trains.",
        "tests/hooks/test_differences.py::test_on_init_end_comes_within_the_constructor",
    ),
    "disable_tqdm": Difference(
        "The driver shows one line for all workers instead of a bar. `ProgressCallback` and `PrinterCallback` are in "
        "the list of callbacks, and what they show ends when they are removed.",
        "tests/callbacks/test_defaults.py::test_logs_are_printed_once_and_not_after_the_printer_is_removed",
    ),
    "log_level": Difference(
        "Set by the constructor in its process, and on each Ray worker when it sets the trainer up.",
        "tests/hooks/test_differences.py::test_the_log_level_is_set_by_the_constructor_and_stays",
    ),
    "local_rank": Difference(
        "Read from launchers; on Ray, rank and device come from Ray.",
        "tests/arguments/test_process.py::test_answers_come_from_the_placement",
    ),
}
"""What happens at another place or moment than in ``transformers``, with the same effect."""
