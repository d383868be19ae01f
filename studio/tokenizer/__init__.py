"""Text into ids: the tokenizer of a model and its chat template, the same for chat, training and export."""

from __future__ import annotations

from studio.tokenizer.reading import encode, load_tokenizer
from studio.tokenizer.template import TEMPLATE_SECONDS, Message, Role, render

__all__ = ["TEMPLATE_SECONDS", "Message", "Role", "encode", "load_tokenizer", "render"]
