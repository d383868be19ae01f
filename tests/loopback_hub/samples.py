"""Tokens and small models that tests put on the Hub. The weights are sound files, but of no real architecture."""

from __future__ import annotations

import json
import struct

ALICE, BOB = "hf_aliceAliceAlice", "hf_bobBobBobBob"
READER = "hf_readReadReadRead"
USERS = {ALICE: "alice", BOB: "bob", READER: "alice"}
"""Who a token belongs to."""
ROLES = {READER: "read"}
"""What a token may do, where it is not everything."""

CONFIG = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})


def weights(count: int) -> bytes:
    """A safetensors file with one tensor of so many fp32 weights."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", 0.5) * count


SMALL = {"config.json": CONFIG, "tokenizer.json": "{}", "model.safetensors": weights(100)}
LARGE = SMALL | {"model.safetensors": weights(300_000)}
"""Its weights are sent in 19 chunks, so a fault can slow them down or end them midway."""
