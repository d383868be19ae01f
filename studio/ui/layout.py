"""The whole page. Read it top to bottom: what one part returns, a later part receives."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.settings import Settings
from studio.ui.api import public_api
from studio.ui.generation_tab import generation_tab
from studio.ui.handlers import Update, on
from studio.ui.loading_tab import loading_tab
from studio.ui.memory_tab import memory_tab
from studio.ui.merging_tab import merging_tab
from studio.ui.model_strip import connect_strip, draw_strip
from studio.ui.publishing_tab import publishing_tab
from studio.ui.theme import ICON, SCRIPT, STYLE, theme
from studio.ui.tokenizer_tab import tokenizer_tab
from studio.ui.training_tab import training_tab

TITLE = "Transformers Studio"
TAGLINE = "From a model’s name to your own tuned model, measured at every step"
LONGEST_QUEUE = 100
"""Events that may wait to be let in; one more is refused in words."""
# Nothing that a model writes, not even the address of a picture, makes the page ask another host.
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="'
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; object-src 'none'\">"
)


def build() -> gr.Blocks:
    """Draw the page and connect it. Loads no model and imports no heavy library."""
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=(3600, 7200)) as page:
        with gr.Row(elem_id="masthead"):
            gr.HTML(f"{_icon()}<h1>{TITLE}</h1><p>{TAGLINE}</p>", elem_id="brand")
            light = gr.Button("Light / dark", size="sm", elem_id="theme-switch", min_width=100, scale=0)
        strip = draw_strip()
        showing = gr.State("Generate")
        publish = gr.State(None)  # what is handed over to Publish
        with gr.Tabs(selected="generation", elem_id="tabs") as tabs:
            handed = {"cut": tokenizer_tab(strip.parts["model"], showing)}
            handed["question"] = memory_tab(page, tabs, strip.chosen, showing)
            how = loading_tab(strip.chosen, strip.made_for)
            training_tab(page, tabs, strip, how, showing, handed | {"publish": publish})
            merging_tab(page, tabs, strip, showing, publish)
            generation_tab(page, strip.plan, strip.made_for)
            publishing_tab(showing, publish)
        on(tabs.select, opened_tab, inputs={}, outputs={"showing": showing}, queue=False)
        connect_strip(page, strip, how)
        light.click(None, js="() => document.body.classList.toggle('dark')")
        public_api()
    page.queue(max_size=LONGEST_QUEUE)
    _poll_calmly(page)
    return page


def opened_tab(event: gr.SelectData) -> Update:
    """Note which tab is open."""
    return {"showing": event.value}


def _poll_calmly(page: gr.Blocks) -> None:
    """Let Gradio look for new events 50 times a second rather than 1,000.

    Each look takes Python's lock away from the thread that generates: with the default a small model on two CPU cores
    loses a fifth of its tokens per second to an idle page. An event waits up to 20 ms longer for its start.
    """
    page._queue.sleep_when_free = 0.02
    page._queue.progress_update_sleep_when_free = 0.1


def launch_options(settings: Settings) -> dict[str, Any]:
    """What `launch` is told, the same everywhere."""
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "share": False,
        "theme": theme(),
        "css_paths": STYLE,
        "head": f"{_POLICY}<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
        "favicon_path": ICON,
        "footer_links": ["api", "gradio"],
        "run_history": False,  # it would keep prompts and replies in the visitor's browser without being asked
        "show_error": True,
        "enable_monitoring": False,
        "max_file_size": "100mb" if settings.shared else "2gb",  # of a dataset; larger ones are named by their path
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": True,  # the public endpoints as tools; the private ones are not among them
    }


def _icon() -> str:
    return ICON.read_text(encoding="utf-8")
