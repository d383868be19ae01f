"""An upload as it goes on."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from studio.runs.following import News, follow_folder
from studio.uploads.directory import folder_of, standing


def follow(id_: str, *, after: int = 0) -> Generator[News, None, None]:
    """What an upload says, from an offset in its file on, a beat at a time, until nobody is at it any more.

    The first comes at once, the last when all was read. Closing it leaves the upload alone.
    """
    folder = folder_of(id_)
    for news in follow_folder(folder, after=after):
        yield news if news.standing.state.is_alive else replace(news, standing=standing(folder))
