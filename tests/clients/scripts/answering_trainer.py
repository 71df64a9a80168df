"""A trainer for questions, as projects keep it beside their script."""

from transformers import Trainer
from transformers.trainer_utils import PredictionOutput


class AnsweringTrainer(Trainer):
    def __init__(self, *args, questions=None, to_answers=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.questions = questions
        self.to_answers = to_answers

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        try:
            output = self.evaluation_loop(
                self.get_eval_dataloader(eval_dataset),
                description="Evaluation",
                prediction_loss_only=None,
                ignore_keys=ignore_keys,
                metric_key_prefix=metric_key_prefix,
            )
        finally:
            self.compute_metrics = compute_metrics
        metrics = {}
        if self.to_answers is not None and compute_metrics is not None and self.args.should_save:
            answers = self.to_answers(self.questions, eval_dataset, output.predictions)
            metrics = {
                f"{metric_key_prefix}_{name}": value for name, value in self.compute_metrics(answers).items()
            }
            self.log(metrics)
        metrics.update(output.metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, test_dataset, test_questions, metric_key_prefix="test"):
        loader = self.get_test_dataloader(test_dataset)
        compute_metrics, self.compute_metrics = self.compute_metrics, None
        try:
            output = self.evaluation_loop(loader, description="Prediction", prediction_loss_only=None)
        finally:
            self.compute_metrics = compute_metrics
        answers = self.to_answers(test_questions, test_dataset, output.predictions)
        return PredictionOutput(
            predictions=answers.predictions, label_ids=answers.label_ids, metrics=output.metrics
        )
