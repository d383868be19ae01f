"""From the start of the process to the first HTTP 200, against an empty Gradio page; and to every heavy import warm.

python tests/benchmarks/start_up.py [REPEATS]
"""

from __future__ import annotations

import sys
import time

from running import free_port, process, told

EMPTY = "import gradio as gr\nwith gr.Blocks() as page: pass\npage.launch(server_name='127.0.0.1', quiet=True)"
# The studio as it is, and a line on stdout when its warm-up thread has ended.
WATCHED = """
import runpy, threading, time
def watch():
    while not (warm := [t for t in threading.enumerate() if t.name == "studio-warm-up"]): time.sleep(0.01)
    warm[0].join()
    print("WARM", flush=True)
threading.Thread(target=watch, daemon=True).start()
runpy.run_path("app.py", run_name="__main__")
"""


def main(repeats: int) -> None:
    empty, ours, warm = [], [], []
    for _ in range(repeats):
        with process("-c", EMPTY, port=free_port()) as (_, _, seconds):
            empty.append(seconds)
        started = time.perf_counter()
        with process("-c", WATCHED, port=free_port()) as (child, _, seconds):
            ours.append(seconds)
            assert child.stdout is not None
            while "WARM" not in child.stdout.readline():
                pass
            warm.append(time.perf_counter() - started)
    studio = told("studio, first HTTP 200", ours, "s")
    page = told("an empty Gradio page, first HTTP 200", empty, "s")
    told("studio, torch and all the rest imported", warm, "s")
    print(f"{'ratio of the medians':<46} {studio / page:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
