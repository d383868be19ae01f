"""Fine-tune a model as a run of Transformers Studio did, without the studio: the same examples, order, loss and steps.

    pip install torch transformers peft datasets accelerate     and bitsandbytes where RUN["quantization"] is one
    python train.py [FOLDER OF THE RUN]

It prints the loss of every step. The result goes to adapter-again/ in the folder of the run, or model-again/.
"""

import sys
from itertools import islice
from math import ceil
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

RUN = {}
S = RUN["settings"]
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent


def batches(lengths, epoch):
    """The batches of an epoch: lists of sequences, each of one row or, packed, of several.

    Rows of like length are together, as many as the budget of tokens holds; which ones is drawn anew in each epoch.
    """
    step = np.maximum(1, 2 ** np.floor(np.log2(np.maximum(lengths, 1))).astype(int) // 16)
    alike = -(-lengths // step) * step
    places = packed(np.sort(alike)) if RUN["packed"] else cut(np.sort(alike))
    random = np.random.default_rng((S["seed"], epoch))
    rows = np.lexsort((random.random(len(lengths)), alike)).tolist()
    made = [[tuple(rows[place] for place in sequence) for sequence in batch] for batch in places]
    return [made[index] for index in random.permutation(len(made)).tolist()]


def cut(ascending):
    """Each row in a sequence of its own."""
    found = [[]]
    for place, length in enumerate(ascending.tolist()):
        if found[-1] and (len(found[-1]) + 1) * length > S["batch_tokens"]:
            found.append([])
        found[-1].append((place,))
    return found


def packed(ascending):
    """Sequences as long as the longest row, filled from the longest row down, each into the least room that will do."""
    longest = int(ascending[-1])
    sequences, stacks = [], {}
    for place in range(len(ascending) - 1, -1, -1):
        size = int(ascending[place])
        room = min((room for room, stack in stacks.items() if stack and room >= size), default=None)
        if room is None:
            room, chosen = longest, len(sequences)
            sequences.append([])
        else:
            chosen = stacks[room].pop()
        sequences[chosen].append(place)
        stacks.setdefault(room - size, []).append(chosen)
    at_once = max(1, S["batch_tokens"] // longest)
    return [[tuple(each) for each in sequences[i : i + at_once]] for i in range(0, len(sequences), at_once)]


class Sampler:
    def __init__(self, lengths):
        self.lengths, self.epoch = lengths, 0

    def __len__(self):
        return len(batches(self.lengths, 0))

    def __iter__(self):
        return iter(batches(self.lengths, self.epoch))


class Names:
    """The rows are read by `collate`; until then a sequence is the numbers of its rows."""

    def __getitem__(self, sequence):
        return sequence


def collate(batch):
    """Tensors of a batch, padded on the right. What is not trained is -100, and so is the first token of each row."""
    sequences = [EXAMPLES.select(sequence)[:] for sequence in batch]
    width = max(sum(map(len, sequence["input_ids"])) for sequence in sequences)
    made = {name: torch.zeros(len(batch), width, dtype=torch.long) for name in ("input_ids", "position_ids", "mask")}
    labels = torch.full((len(batch), width), -100)
    for line, sequence in enumerate(sequences):
        begin = 0
        for ids, trained in zip(sequence["input_ids"], sequence["trained"], strict=True):
            ids, trained, end = torch.tensor(ids), torch.tensor(trained), begin + len(ids)
            made["input_ids"][line, begin:end] = ids
            made["position_ids"][line, begin:end] = torch.arange(len(ids))
            labels[line, begin + 1 : end] = torch.where(trained, ids, -100)[1:]
            begin = end
        made["position_ids"][line, begin:] = torch.arange(width - begin)
        made["mask"][line, :begin] = 1
    # Packed rows are told apart by their positions, and only where there is no mask.
    context = {"position_ids": made["position_ids"]} if RUN["packed"] else {"attention_mask": made["mask"]}
    return {"input_ids": made["input_ids"], "labels": labels, **context}


class Learner(Trainer):
    def get_train_dataloader(self):
        return DataLoader(Names(), batch_sampler=SAMPLER, collate_fn=collate, generator=torch.Generator())

    def get_batch_samples(self, iterator, count, device):
        found = list(islice(iterator, count))
        return found, max(1, sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in found))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=1):
        """The mean over the trained tokens of the optimizer step, however many batches it has."""
        labels = inputs.pop("labels")[:, 1:].reshape(-1)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(RUN["compute"])
        with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
            logits = model(**inputs, use_cache=False).logits[:, :-1].reshape(len(labels), -1).float()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch

    def create_optimizer(self, *arguments, **options):
        optimizer = super().create_optimizer(*arguments, **options)
        fast = {id(parameter) for name, parameter in self.model.named_parameters() if "lora_B" in name}
        if S["lora_plus"] != 1:  # LoRA+: the B matrices learn faster
            optimizer.param_groups[:] = [
                {**group, "params": chosen, "lr": group["lr"] * (S["lora_plus"] if quick else 1)}
                for group in optimizer.param_groups
                for quick in (True, False)
                if (chosen := [parameter for parameter in group["params"] if (id(parameter) in fast) is quick])
            ]
        return optimizer


class Told(TrainerCallback):
    def on_epoch_begin(self, args, state, control, **more):
        SAMPLER.epoch = int(state.epoch or 0)

    def on_log(self, args, state, control, logs, **more):
        if "loss" in logs:
            print(f"step {state.global_step}/{args.max_steps} loss {logs['loss']:.8f}", flush=True)


EXAMPLES = Dataset.from_file(str(FOLDER / RUN["examples"]))
SAMPLER = Sampler(EXAMPLES.with_format("numpy")["length"][:])
steps = max(1, ceil(S["epochs"] * ceil(len(SAMPLER) / S["accumulation"])))
steps = min(steps, S["most_steps"]) if S["most_steps"] else steps

quantization = BitsAndBytesConfig.from_dict(RUN["quantization"]) if RUN["quantization"] else None
model = AutoModelForCausalLM.from_pretrained(
    RUN["model"],
    revision=RUN["revision"],
    dtype=RUN["dtype"],
    quantization_config=quantization,
    attn_implementation=RUN["attention"],
    device_map="auto" if torch.cuda.is_available() or quantization else None,
)
for layer in model.modules():
    if type(layer).__name__ == "Linear4bit":
        layer.support_avx512bf16_for_cpu = False  # or some CPUs repack it for speed, and its gradients are wrong
torch.manual_seed(S["seed"])
if S["method"] == "full":
    model.requires_grad_(True)
else:
    model = get_peft_model(model, LoraConfig(**RUN["adapter"], task_type="CAUSAL_LM"))
model.config.use_cache = False
if S["checkpointing"] == "on":
    model.gradient_checkpointing_enable()

arguments = TrainingArguments(
    output_dir=str(FOLDER / "again"),
    max_steps=steps,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=S["accumulation"],
    learning_rate=S["learning_rate"],
    weight_decay=S["weight_decay"],
    max_grad_norm=S["clip"],
    neftune_noise_alpha=S["neftune"] or None,
    seed=S["seed"],
    warmup_steps=int(steps * S["warmup"]),
    use_cpu=not torch.cuda.is_available(),
    fp16=RUN["compute"] == "fp16",
    logging_steps=1,
    logging_nan_inf_filter=False,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    remove_unused_columns=False,
    **RUN["arguments"],
)
trainer = Learner(model=model, args=arguments, callbacks=[Told()])
trainer.remove_callback(PrinterCallback)
trainer.model_accepts_loss_kwargs = True  # the loss is divided by the tokens of the step, and by nothing else
trainer.train()
model.save_pretrained(FOLDER / ("model-again" if S["method"] == "full" else "adapter-again"))
