"""The Trainer of transformers with the batches, the loss and the checkpoints of the studio."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from itertools import islice
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from studio import compute
from studio.errors import InputError, StudioError
from studio.training import checkpoints
from studio.training.batches import Batches, Collator, Named, Share
from studio.training.loss import computing_in, count
from studio.training.plan import TrainingSettings
from studio.training.processes import together
from studio.training.readying import Ready

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

SCHEDULES = {
    "cosine": ("cosine", {}),
    "linear": ("linear", {}),
    "constant": ("constant_with_warmup", {}),
    "cosine with a floor": ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    "warm-up, stable, decay": ("warmup_stable_decay", {}),
}
DECAY = 0.2
"""Share of the steps in which "warm-up, stable, decay" falls."""
OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw 8-bit": "adamw_8bit",
    "paged adamw": "paged_adamw_32bit",
    "paged adamw 8-bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
_SKIPPED = 20
"""Steps in a row that fp16 may skip while it looks for its scale."""


class Follower(Protocol):
    """Who hears of every optimizer step, and may end the training after it."""

    def check(self) -> None:
        """Raise where all is to end at once."""

    def stepped(self, step: Step) -> bool:
        """Hear of a step; whether to stop."""


class Step:
    """An optimizer step as the Trainer tells of it."""

    def __init__(self, logs: dict[str, float], number: int, epoch: float, tokens: int) -> None:
        self.loss, self.gradient, self.rate = logs["loss"], logs["grad_norm"], logs["learning_rate"]
        self.number, self.epoch, self.tokens = number, epoch, tokens


def steps_in(batches: Batches, settings: TrainingSettings) -> int:
    """Optimizer steps of a whole run."""
    wanted = max(1, ceil(settings.epochs * ceil(len(batches) / settings.accumulation)))
    return min(wanted, settings.most_steps) if settings.most_steps else wanted


def arguments(settings: TrainingSettings, folder: Path, total: int, *, fp16: bool) -> TrainingArguments:
    """The settings in the words of transformers. What is evaluated and saved is not its concern."""
    from transformers import TrainingArguments

    if settings.report_to != "nowhere" and not find_spec(settings.report_to):
        raise InputError(f"{settings.report_to} is not installed here.", f"Run: pip install {settings.report_to}")
    schedule, options = SCHEDULES[settings.schedule]
    if settings.schedule == "warm-up, stable, decay":
        options = {"num_decay_steps": max(1, round(total * DECAY))}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=total,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.accumulation // together().size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=dict(options),
        warmup_steps=int(total * settings.warmup),  # a short run would learn nothing in its first step
        optim=OPTIMIZERS[settings.optimizer],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        neftune_noise_alpha=settings.neftune or None,
        seed=settings.seed,
        use_cpu=compute.machine().device == "cpu",
        fp16=fp16,
        use_liger_kernel=settings.liger and compute.machine().device == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[] if settings.report_to == "nowhere" else [settings.report_to],
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def build(
    ready: Ready, batches: Batches, collator: Collator, settings: TrainingSettings, arguments: Any, follower: Follower
) -> Any:
    """A Trainer that has not begun."""
    from transformers import PrinterCallback

    trainer = _trainer()(model=ready.model, args=arguments)
    trainer.remove_callback(PrinterCallback)
    trainer.ready, trainer.batches, trainer.collator = ready, batches, collator
    trainer.settings, trainer.follower, trainer.tokens = settings, follower, 0
    trainer.together = together()
    # The sum over the tokens of a step is divided by their number, whatever the model accepts.
    trainer.model_accepts_loss_kwargs = True
    trainer.add_callback(_guard()(batches))
    if settings.checkpointing == "on":
        enable = getattr(ready.model, "activation_checkpointing_enable", None)  # its name since transformers 5.23
        (enable or ready.model.gradient_checkpointing_enable)()
    return trainer


def take_down(trainer: Any) -> None:
    """Take what a Trainer that did not come to its end left in the model off it."""
    if handle := getattr(trainer, "neftune_hook_handle", None):
        handle.remove()
    trainer.model.zero_grad()
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if trainer.settings.checkpointing == "on":
        disable = getattr(trainer.model, "activation_checkpointing_disable", None)
        (disable or trainer.model.gradient_checkpointing_disable)()
        trainer.model.disable_input_require_grads()


@cache
def _trainer() -> Any:
    """The class, made here because importing transformers takes seconds."""
    from torch import Generator
    from torch.utils.data import DataLoader
    from transformers import Trainer

    class Learner(Trainer):  # type: ignore[misc]
        """Told by `build` what it works with."""

        def get_train_dataloader(self) -> DataLoader:
            rank, size = self.together.rank, self.together.size
            return DataLoader(
                Named(len(self.batches.lengths)),
                batch_sampler=Share(self.batches, self.settings.accumulation, rank=rank, size=size),
                collate_fn=self.collator,
                generator=Generator(),  # or each epoch would take a number from the one that dropout draws from
                pin_memory=self.args.device.type == "cuda",
            )

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], int]:
            del device
            return _gathered(self, islice(epoch_iterator, num_batches))

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **told: Any) -> torch.Tensor:
            assert not return_outputs
            with computing_in(self.args.device.type, self.ready.compute):
                # Of the gradients, and of the losses that are told, the mean over the processes is taken.
                loss: torch.Tensor = model(inputs) / (told["num_items_in_batch"] / self.together.size)
                return loss

        def _wrap_model(self, model: Any, *arguments: Any, **options: Any) -> Any:
            del model, arguments, options
            return self.together.scored(self.model, self.ready.head)

        def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
            self.follower.check()
            return _sound(super().training_step(*arguments, **options), self.state.global_step + 1)

        def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
            return _hastened(super().create_optimizer(*arguments, **options), self.model, self.settings.lora_plus)

        def floating_point_ops(self, inputs: Any) -> int:
            del inputs
            return 0  # counting them goes over all parameters for every batch

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs, start_time)
            _told(self, logs)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            del model
            checkpoints.load_weights(self.model, Path(resume_from_checkpoint) / checkpoints.WEIGHTS)

    return Learner


def _gathered(trainer: Any, batches: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The batches of one optimizer step, and how many trained tokens they have: what their loss is the mean over."""
    found = list(batches)
    read, scored = sum(batch.pop("tokens") for batch in found), sum(count(batch) for batch in found)
    trainer.tokens, scored = trainer.together.totals(read, scored)
    return found, max(1, scored)


def _told(trainer: Any, logs: dict[str, float]) -> None:
    """Let the follower hear of a step; the last log of a training is of none."""
    trainer.state.log_history.clear()  # each checkpoint would hold all of it
    if "loss" in logs:
        step = Step(logs, trainer.state.global_step, trainer.state.epoch, trainer.tokens)
        trainer.control.should_training_stop |= trainer.follower.stepped(step)


def _sound(loss: torch.Tensor, step: int) -> torch.Tensor:
    if not loss.isfinite():
        raise _diverged(f"The loss is {loss.item()}", step)
    return loss


@cache
def _guard() -> Any:
    from transformers import TrainerCallback

    class Guard(TrainerCallback):  # type: ignore[misc]
        """Begins each epoch with its own batches; ends a training whose gradients are no numbers before it steps."""

        skipped = 0

        def __init__(self, batches: Batches) -> None:
            self.batches = batches

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **told: Any) -> None:
            # The Trainer reaches a batch sampler only where something is wrapped around it.
            del args, control, told
            self.batches.set_epoch(int(state.epoch or 0))

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **told: Any) -> None:
            import torch

            del control
            parameters = [p for group in told["optimizer"].param_groups for p in group["params"]]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.skipped = 0 if norm.isfinite() else self.skipped + 1
            if self.skipped > (_SKIPPED if args.fp16 else 0):
                raise _diverged("The gradient is infinite or not a number", state.global_step + 1)

    return Guard


def _diverged(what: str, step: int) -> StudioError:
    return StudioError(
        f"{what} at step {step}: the training came apart, and its weights were left as they were before this step.",
        "Choose a smaller learning rate or a longer warm-up and begin anew; with fp16, choose bf16 or fp32.",
    )


def _hastened(optimizer: Any, model: Any, ratio: float) -> Any:
    """LoRA+: let the B matrices learn `ratio` times faster. The optimizer holds no state yet."""
    fast = {id(parameter) for name, parameter in model.named_parameters() if "lora_B" in name}
    groups = []
    for group in optimizer.param_groups:
        for times, chosen in ((ratio, True), (1.0, False)):
            parameters = [parameter for parameter in group["params"] if (id(parameter) in fast) is chosen]
            if parameters:
                groups.append({**group, "params": parameters, "lr": group["lr"] * times})
    if ratio != 1.0:
        optimizer.param_groups[:] = groups
    return optimizer


def random_state(trainer: Any) -> tuple[str, bytes]:
    """The file in which a process keeps where its random numbers are, and its name."""
    with TemporaryDirectory() as folder:
        trainer._save_rng_state(folder)
        (file,) = Path(folder).iterdir()
        return file.name, file.read_bytes()


def save_state(trainer: Any, folder: Path, randoms: Iterable[tuple[str, bytes]]) -> None:
    """Everything of a Trainer that its next steps depend on, by the names that it reads it by.

    `randoms` is what `random_state` gave in each process.
    """
    checkpoints.save_weights(trainer.model, folder / checkpoints.WEIGHTS)
    trainer._save_optimizer_and_scheduler(str(folder))
    trainer._save_scaler(str(folder))
    for name, content in randoms:
        (folder / name).write_bytes(content)
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
