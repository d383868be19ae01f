"""The programs that hold a deployment to the folder's reply, against the real server of llama.cpp.

    python tests/benchmarks/serving.py LLAMA_SERVER [FOLDER]

LLAMA_SERVER is the llama-server of a build of llama.cpp; FOLDER is the starter by default. Prints a line for each kind
and prompt. F32 and F16 have to be the same; the smaller kinds may part, and the program has to say so then.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.exporting import ExportPlan, ServePlan, export, parity
from studio.settings import ASSETS
from studio.tokenizer import Message

KINDS = ("F32", "F16", "Q8_0", "Q4_0")
PROMPTS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": (Message("user", "What is the capital of France?"),)},
    "turns": {
        "messages": (
            Message("system", 'Be "brief".'),
            Message("user", "Tell me, é你好 'x' \\n\nnow!"),
            Message("assistant", "Yes."),
            Message("user", "And a story?"),
        )
    },
    "a text": {"prompt": "The train leaves at half past seven, and"},
}


@contextmanager
def served(server: str, file: Path) -> Iterator[None]:
    """The file behind the port that the program asks."""
    command = [server, "-m", str(file), "-c", "512", "-np", "1", "--port", "8080"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen("http://127.0.0.1:8080/health").close()
                break
            except urllib.error.URLError:
                time.sleep(0.3)
        yield
    finally:
        process.terminate()
        process.wait()


def main(server: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        for kind in KINDS:
            file = Path(place, f"{kind}.gguf")
            list(export(ExportPlan(folder, file, kind)))
            with served(server, file):
                for name, prompt in PROMPTS.items():
                    *_, last = parity(ServePlan(folder, tokens=60, gguf=str(file), **prompt))
                    told = last.result
                    program = Path(place, told.snippets[2].file)
                    program.write_text(told.snippets[2].code, encoding="utf-8")
                    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
                    words = (done.stdout + done.stderr).strip().splitlines()[-1][:80]
                    print(f"{kind:5} {name:9} closest {told.closest:.3f}  exit {done.returncode}  {words}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else ASSETS / "starter_model")
