"""What to run where the studio does not write a GGUF file itself: llama.cpp's own programs."""

from __future__ import annotations

import shlex
from pathlib import Path

from studio.checkpoint import read_checkpoint
from studio.errors import Unsupported
from studio.exporting.shape import read_shape
from studio.exporting.texts import probes
from studio.exporting.vocabulary import read_vocabulary
from studio.loading.outlook import read_config
from studio.tokenizer import load_tokenizer

_SIZES = (
    "The studio writes this model itself, in 16 bit and in blocks of 8, 5 and 4 bit; for Q4_K_M, Q6_K and the like:"
)
_SCRIPT = """\
# {reason}
# In a folder of your own, with git, CMake and a compiler, and a Python of its own:
git clone --depth 1 https://github.com/ggml-org/llama.cpp
python3 -m venv llama.cpp/.venv
llama.cpp/.venv/bin/pip install -r llama.cpp/requirements/requirements-convert_hf_to_gguf.txt
llama.cpp/.venv/bin/python llama.cpp/convert_hf_to_gguf.py {folder} --outtype bf16 --outfile {name}-BF16.gguf
cmake -S llama.cpp -B llama.cpp/build
cmake --build llama.cpp/build --target llama-quantize
llama.cpp/build/bin/llama-quantize {name}-BF16.gguf {name}-Q4_K_M.gguf Q4_K_M
"""


def command_for(folder: Path) -> str:
    """A shell script that makes a GGUF file of a model folder with llama.cpp, and begins with why it is needed.

    Raises InputError, Unsupported or Damaged where the folder is no whole model.
    """
    read_checkpoint(folder)
    name = shlex.quote(folder.name)
    return _SCRIPT.format(reason=_reason(folder), folder=shlex.quote(str(folder)), name=name)


def _reason(folder: Path) -> str:
    try:
        shape = read_shape(read_config(folder))
        tokenizer = load_tokenizer(folder)
        read_vocabulary(folder, tokenizer, shape.vocabulary, probes(tokenizer), lambda: None)
    except Unsupported as error:
        return error.message
    return _SIZES
