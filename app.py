"""Start the studio in the browser. Hugging Face Spaces runs this file; `python app.py` does too."""

from __future__ import annotations

import sys

from studio import compute, hub, runs
from studio.errors import StudioError
from studio.settings import Settings
from studio.ui.layout import build, launch_options

if __name__ == "__main__":
    hub.keep_tokens_out()
    try:
        settings = Settings.from_env()
    except StudioError as error:
        sys.exit(str(error))
    compute.prepare()
    page = build()
    page.launch(prevent_thread_lock=True, **launch_options(settings))
    compute.warm_up()
    if not settings.shared:
        runs.wake(token=hub.machine_token())
    page.block_thread()
