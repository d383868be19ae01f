"""What lies around the weights of a merge: whole files, the config, the tokenizer and the chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checkpoint import read_checkpoint, read_header, read_json, weight_files
from studio.errors import InputError, StudioError
from studio.loading.outlook import read_config
from studio.merging.proof import Check, ProofQuestion
from studio.tokenizer import Message, bundled, encode, load_tokenizer, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INDEX = "model.safetensors.index.json"
_MAY_DIFFER = {
    *("dtype", "torch_dtype", "transformers_version", "_name_or_path", "tie_word_embeddings", "vocab_size"),
    *("quantization_config", "use_cache"),
}
"""What a merge may change in a config: how the weights are held, and as many tokens as the adapter adds."""
_CONVERSATIONS = (
    (Message("user", "What is 2 + 2?"), Message("assistant", "4."), Message("user", "And\n3 + 3? äöü €")),
    (Message("system", "You answer in one word."), Message("user", "Hello?"), Message("assistant", " Hi. ")),
)


def check_files(merged: Path) -> Check:
    """Whether every file is there to its last byte, index and headers say the same, and the config builds a model."""
    try:
        read_checkpoint(merged)
        read_config(merged)
        files = weight_files(merged)
        where = {key: file.name for file in files for key in read_header(file).keys() - {"__metadata__"}}
        wrong = _against_index(merged, where) if (merged / _INDEX).is_file() else ""
    except StudioError as error:
        return Check("files", "failed", error.message)
    except OSError as error:
        return Check("files", "failed", f"A file cannot be read: {error.strerror}.")
    if wrong:
        return Check("files", "failed", wrong)
    return Check("files", "passed", f"{len(files)} weight files with {len(where)} tensors are whole.")


def _against_index(merged: Path, where: dict[str, str]) -> str:
    """What the index says otherwise; empty where nothing."""
    said = read_json(merged / _INDEX)["weight_map"]
    if not said.items() <= where.items():
        key = sorted(key for key, file in said.items() if where.get(key) != file)[0]
        return f"The index says that {key} is in {said[key]}, and it is not."
    if extra := sorted(where.keys() - said.keys()):
        return f"The index leaves out {extra[0]}, which is in {where[extra[0]]}."
    return ""


def check_config(question: ProofQuestion) -> Check:
    """Whether the config is that of the base, but for what a merge may change."""
    base, merged = (read_config(folder).to_dict() for folder in (question.base, question.merged))
    changed = sorted(name for name in base.keys() | merged.keys() if base.get(name) != merged.get(name))
    changed = [name for name in changed if name not in _MAY_DIFFER]
    if changed:
        before, after = (json.dumps(config.get(changed[0]), default=str)[:60] for config in (base, merged))
        words = f"{len(changed)} fields differ, the first is {changed[0]}: {before} in the base, {after} in the merge."
        return Check("config", "failed", words, float(len(changed)), 0.0)
    return Check("config", "passed", "It is that of the base.", 0.0, 0.0)


def check_texts(question: ProofQuestion, vocabulary: int) -> list[Check]:
    """Whether text becomes the same tokens, and a conversation the same text, as with the base or its adapter.

    Where the adapter has a tokenizer or a template of its own, that counts. `vocabulary` are the rows of the embedding.
    """
    place = next(
        (folder for folder in (question.adapter, question.base) if (folder / "tokenizer.json").is_file()), None
    )
    try:
        before, after = load_tokenizer(place or question.base), load_tokenizer(question.merged)
    except StudioError as error:
        return [Check(name, "failed", error.message) for name in ("tokenizer", "chat template")]
    return [_check_tokenizer(before, after, vocabulary), _check_template(question, before, after)]


def _check_tokenizer(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, vocabulary: int) -> Check:
    texts = [text for sample in bundled() for text in sample.texts]
    texts += [message.content for turns in _CONVERSATIONS for message in turns]
    apart = [text for text in texts if _ids(before, text) != _ids(after, text)]
    special = [name for name, token in before.special_tokens_map.items() if after.special_tokens_map.get(name) != token]
    highest = max(after.get_vocab().values())
    wrong = [
        f"{len(apart)} of {len(texts)} texts become other tokens, the first is {apart[0][:40]!r}" if apart else "",
        f"{special[0]} is another" if special else "",
        "its vocabulary is another" if before.get_vocab() != after.get_vocab() else "",
        f"its highest id is {highest}, and the model has {vocabulary} rows" if highest >= vocabulary else "",
    ]
    if said := "; ".join(filter(None, wrong)):
        return Check("tokenizer", "failed", f"It is not that of the base: {said}.", float(len(apart)), 0.0)
    words = f"{len(texts)} texts in 16 languages become the same tokens; {len(after):,} of them, {vocabulary:,} rows."
    return Check("tokenizer", "passed", words, 0.0, 0.0)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return encode(tokenizer, text, special_tokens=True)


def _check_template(question: ProofQuestion, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase) -> Check:
    wanted: Any = before.chat_template
    if (own := question.adapter / "chat_template.jinja").is_file():
        wanted = own.read_text(encoding="utf-8")
    if not wanted and not after.chat_template:
        return Check("chat template", "passed", "Neither has one.")
    if not wanted or not after.chat_template:
        whose = "The base has none and the merge" if after.chat_template else "The merge has none and the base"
        return Check("chat template", "failed", f"{whose} has one.")
    before.chat_template = wanted
    for turns in _CONVERSATIONS:
        for prompt in (True, False):
            expected, found = (_rendered(each, turns, prompt=prompt) for each in (before, after))
            if expected != found:
                words = f"A conversation reads {expected[:120]!r} by the base's and {found[:120]!r} by the merge's."
                return Check("chat template", "failed", words)
    return Check("chat template", "passed", f"{2 * len(_CONVERSATIONS)} conversations read the same, byte for byte.")


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: tuple[Message, ...], *, prompt: bool) -> str:
    """The text of a conversation, or why the template refuses it: both have to be the same."""
    try:
        return render(tokenizer, turns, generation_prompt=prompt)
    except InputError as error:
        return error.message
