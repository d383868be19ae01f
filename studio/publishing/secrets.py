"""Secrets in files that are about to be shown to others: tokens, keys and passwords, found by how they look."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from studio.errors import InputError

NAMES = re.compile(
    r"(?:^|/)(?:\.env(?:\..+)?|\.netrc|\.git-credentials|id_(?:rsa|dsa|ecdsa|ed25519)|.+\.(?:pem|p12|key))$"
)
"""Of files that secrets are kept in."""
_LOOKS = {
    "a token of Hugging Face": re.compile(rb"\b(?:hf_[A-Za-z0-9]{15,}|hf_oauth_[\w.-]{15,}|api_org_[A-Za-z0-9]{15,})"),
    "a token of GitHub": re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"),
    "a key of OpenAI or Anthropic": re.compile(rb"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{24,}"),
    "a key of AWS": re.compile(rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a key of Google": re.compile(rb"\bAIza[A-Za-z0-9_-]{35}"),
    "a token of Slack": re.compile(rb"\bxox[abprs]-[A-Za-z0-9-]{20,}"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an address with a password in it": re.compile(rb"[a-z]+://[^\s/:@]+:[^\s/:@]{4,}@[\w.-]+"),
}
_BLOCK, _OVERLAP = 1 << 22, 4096
_HEADER_BYTES = 100_000_000


def check_text(path: str, content: bytes) -> None:
    """Raise InputError, naming the file and what it is but never the secret, where a text holds one."""
    for what, looks in _LOOKS.items():
        if looks.search(content):
            raise InputError(
                f"{path} holds what looks like {what}.", "Take it out, and make a new one where it came from."
            )


def check_file(path: str, file: Path) -> None:
    """The same of a file. Of safetensors only what is in words: a weight can look like anything."""
    if NAMES.search(path):
        raise InputError(f"{path} is a file that secrets are kept in.", "Take it out of the folder.")
    with file.open("rb") as stream:
        if file.suffix == ".safetensors":
            length = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))[0]
            check_text(path, stream.read(min(length, _HEADER_BYTES)))
            return
        before = b""
        while block := stream.read(_BLOCK):
            check_text(path, before + block)
            before = block[-_OVERLAP:]
