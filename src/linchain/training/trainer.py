"""transformers.Trainer with our evaluation, our callbacks and nothing that reports elsewhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from linchain import methods, processes
from linchain.errors import DivergedError, LinchainError
from linchain.evaluation.predict import EvaluationData, predict
from linchain.evaluation.scores import mean_loss
from linchain.tasks.encoding import Example, collate, pad_token_id
from linchain.training.checkpoints import TRAINER_STATE, Checkpoints
from linchain.training.config import MethodConfig, RunConfig
from linchain.training.cost import StepCost
from linchain.training.distributed import EngineTrainer, uses_deepspeed
from linchain.training.losses import StepLosses
from linchain.training.prepare import PreparedData
from linchain.training.run_folder import RunFolder

PLACES = "places"  # in a training batch: where each of its examples stands in the data


def trainer_arguments(config: RunConfig, folder: RunFolder, has_validation: bool) -> transformers.TrainingArguments:
    """Our configuration in the words of transformers; nothing is written.

    Raises LinchainError for what transformers refuses on this machine (a precision that its accelerator lacks, say).
    """
    try:
        arguments = transformers.TrainingArguments(**_translated(config, folder, has_validation))
    except ValueError as error:
        raise LinchainError(f"training.precision {config.training.precision}: {error}") from error
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # DataParallel would multiply the batch behind the user's back
    return arguments


def _translated(config: RunConfig, folder: RunFolder, has_validation: bool) -> dict[str, Any]:
    training = config.training
    # transformers renamed gradient checkpointing after 5.17
    names = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    renamed: dict[str, Any] = {checkpointing: training.gradient_checkpointing}
    if training.gradient_checkpointing:
        renamed[f"{checkpointing}_kwargs"] = {"use_reentrant": False}
    return dict(
        output_dir=str(folder.checkpoints.folder),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=config.evaluation.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        warmup_steps=training.warmup_steps,
        lr_scheduler_type=training.lr_scheduler,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seeds["dropout"],  # set again when the training begins: the adapter has been drawn by then
        data_seed=training.seeds["data"],
        bf16=training.precision == "bfloat16",
        fp16=training.precision == "float16",
        logging_steps=training.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=training.save_steps,
        eval_strategy="steps" if has_validation else "no",
        eval_steps=training.eval_steps if has_validation else None,
        metric_for_best_model="loss" if training.keep_best else None,
        greater_is_better=False if training.keep_best else None,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.accelerator.is_available() and not uses_deepspeed(),  # it finds its device by itself
        **renamed,
    )


class RunTrainer(EngineTrainer):
    """The validation loss is the token-weighted one of `linchain.evaluation`, the same as in `linchain evaluate`.

    The optimizer is the method's, where it has one of its own. Checkpoints are written by `linchain.training.checkpoints`;
    nothing that is no number gets into one.
    """

    def __init__(
        self,
        arguments: transformers.TrainingArguments,
        method: MethodConfig,
        data: PreparedData,
        model: nn.Module,
        callbacks: list[transformers.TrainerCallback],
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=data.train,
            eval_dataset=data.validation.examples if data.validation else None,
            processing_class=data.tokenizer,
            data_collator=partial(training_batch, pad_token_id=pad_token_id(data.tokenizer)),
            compute_loss_func=head_loss if data.labels is not None else None,
            callbacks=callbacks,
        )
        self.checkpoints = Checkpoints(Path(str(arguments.output_dir)))
        self.losses = StepLosses(partial(self.accelerator.reduce, reduction="mean"))
        self.saving: Path | None = None
        self.cost = StepCost()
        self.add_callback(self.cost)
        self.remove_callback(transformers.PrinterCallback)
        self.validation: EvaluationData | None = data.validation
        self.method = method
        if processes.rank():  # transformers gives all processes one seed, and so the same dropout
            transformers.set_seed(arguments.seed + processes.rank())

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = methods.get(self.method.name).make_optimizer(
                self.model, self.method.options, lr=self.args.learning_rate, weight_decay=self.args.weight_decay
            )
        return super().create_optimizer(model)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        assert self.validation is not None
        model: Any = self.model
        tokenizer: Any = self.processing_class
        rows = predict(model, tokenizer, self.validation, self.args.per_device_eval_batch_size)
        metrics = {f"{metric_key_prefix}_loss": mean_loss(rows)}
        if not math.isfinite(metrics[f"{metric_key_prefix}_loss"]):
            raise DivergedError(f"the validation loss is no longer a number at step {self.state.global_step}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        places = inputs.pop(PLACES)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.losses.add(self.state.global_step + 1, loss, places)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs["loss"] = self.losses.logged(self.state.global_step)
        super().log(logs, *args, **kwargs)

    def continue_from(self, checkpoint: Path) -> None:
        """Trains from `checkpoint` to the last step."""
        self.losses.read(checkpoint)
        self.train(resume_from_checkpoint=str(checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.saving) if self.saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.losses.fetch()
        self._refuse_broken_weights()
        step = self.state.global_step
        main = processes.is_main()
        with self.checkpoints.writing(step, waits=not self.meets_while_saving()) as self.saving:
            super()._save_checkpoint(model, trial)
            # transformers takes the folder that is being written for the best one's: best_global_step tells which it is
            self.state.best_model_checkpoint = None
            if main:
                checkpoint = self.saving / self.checkpoints.at(step).name
                self.losses.write(checkpoint)
                self.state.save_to_json(str(checkpoint / TRAINER_STATE))
        self.saving = None
        if main:
            self.checkpoints.prune(self.state.best_global_step)

    def one_writes(self) -> AbstractContextManager[None]:
        return self.checkpoints.together(self.state.global_step)

    def _refuse_broken_weights(self) -> None:
        model: Any = self.model
        trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
        broken = next((name for name, parameter in trained if not parameter.isfinite().all()), None)
        if broken := next((name for name in processes.exchange(broken) if name), None):
            raise DivergedError(f"{broken} holds values that are no numbers at step {self.state.global_step}")


def training_batch(examples: Sequence[Example], pad_token_id: int) -> dict[str, Any]:
    """The batch of `collate`, and where its examples stand in the data."""
    return {**collate(examples, pad_token_id), PLACES: [example.where for example in examples]}


def head_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
    """Cross-entropy of classes (int64 labels) or squared error (float labels), as a mean over the whole step.

    The models' own loss of a regression is a mean over one forward pass, which counts too much with accumulation.
    """
    logits = outputs["logits"].float()
    if labels.is_floating_point():
        total = nn.functional.mse_loss(logits[:, 0], labels, reduction="sum")
    else:
        total = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)
