"""Rows that were read go when nobody uses them any more, and never while somebody does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from dataset_steps import all_of, result, rows_of

from studio import dataset, jobs
from studio.dataset.sweeping import IN_USE_SECONDS, sweep
from studio.jobs import Upload
from studio.models import DatasetRef

DAY = 86_400
PLENTY = 10**9


def kept(cache: Path, name: str, *, age: float, size: int = 100) -> Path:
    """Rows that were last used `age` seconds ago."""
    cache.mkdir(exist_ok=True)
    file = cache / f"{name}.arrow"
    file.write_bytes(bytes(size))
    file.with_suffix(".json").write_text("{}")
    return aged(file, age)


def aged(file: Path, age: float) -> Path:
    os.utime(file, (time.time() - age,) * 2)
    return file


def names(cache: Path) -> list[str]:
    return sorted(file.name for file in cache.iterdir())


def test_rows_that_were_not_used_for_long_go_with_what_describes_them(tmp_path):
    kept(tmp_path, "old", age=31 * DAY)
    kept(tmp_path, "new", age=29 * DAY)
    sweep(tmp_path, limit=PLENTY, days=30)
    assert names(tmp_path) == ["new.arrow", "new.json"]


def test_the_oldest_go_where_all_are_more_than_the_limit(tmp_path):
    for number in (3, 1, 4, 2):
        kept(tmp_path, f"rows-{number}", age=number * DAY)
    sweep(tmp_path, limit=250, days=30)
    assert names(tmp_path) == ["rows-1.arrow", "rows-1.json", "rows-2.arrow", "rows-2.json"]


def test_what_is_in_use_stays_however_old_and_large_the_rest(tmp_path):
    kept(tmp_path, "now", age=IN_USE_SECONDS / 2, size=1000)
    kept(tmp_path, "then", age=2 * IN_USE_SECONDS)
    sweep(tmp_path, limit=0, days=0)
    assert names(tmp_path) == ["now.arrow", "now.json"]


def test_rows_that_are_being_read_are_in_use(tmp_path):
    rows = rows_of(tmp_path, [{"text": str(number)} for number in range(2500)])
    batches = rows.batches()
    next(batches)
    aged(rows.file, 40 * DAY)
    next(batches)
    sweep(rows.file.parent, limit=0, days=0)
    assert rows.file.exists()
    assert sum(len(batch) for _, batch in batches) == 500
    aged(rows.file, 40 * DAY)
    sweep(rows.file.parent, limit=0, days=0)
    assert not rows.file.exists()


def test_what_a_process_that_was_killed_had_begun_goes_and_what_is_being_written_stays(tmp_path):
    for name, age in (("dead.arrow.1-1.part", 2 * IN_USE_SECONDS), ("alive.arrow.2-2.part", 1), ("left.json", 2 * DAY)):
        (tmp_path / name).write_bytes(b"begun")
        aged(tmp_path / name, age)
    sweep(tmp_path, limit=PLENTY, days=30)
    assert names(tmp_path) == ["alive.arrow.2-2.part"]


def test_a_cache_that_is_not_there_needs_no_sweeping(tmp_path):
    sweep(tmp_path / "rows", limit=0, days=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("space", "left"), [("", ["week"]), ("alice/studio", [])])
def test_looking_at_a_dataset_and_reading_it_sweep_and_sooner_where_visitors_share_the_machine(
    monkeypatch, tmp_path, space, left
):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("SPACE_ID", space)
    kept(tmp_path / "rows", "week", age=7 * DAY)
    kept(tmp_path / "rows", "year", age=365 * DAY)
    offer = result(jobs.look_at_dataset(DatasetRef.parse("persona"), token=False))
    assert [file.stem for file in (tmp_path / "rows").glob("*.arrow")] == left
    kept(tmp_path / "rows", "year", age=365 * DAY)
    rows = result(jobs.read_rows(offer, token=False))
    assert sorted(file.stem for file in (tmp_path / "rows").glob("*.arrow")) == sorted([*left, rows.file.stem])


def test_more_than_the_setting_allows_goes_after_reading_but_not_what_was_just_read(monkeypatch, tmp_path):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("STUDIO_ROWS_GB", "0.000001")
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "one"}\n' * 200)
    offer = result(jobs.look_at_dataset(Upload(file), token=False))
    old = kept(tmp_path / "rows", "old", age=2 * IN_USE_SECONDS, size=999)
    rows = result(jobs.read_rows(offer, token=False))
    assert not old.exists()
    assert rows.file.stat().st_size > 1000
    assert len(all_of(rows)) == 200


def test_rows_that_were_swept_away_are_read_anew(tmp_path):
    rows = rows_of(tmp_path, [{"text": "one"}])
    aged(rows.file, 40 * DAY)
    dataset.sweep(rows.file.parent, limit=PLENTY, days=30)
    assert all_of(rows_of(tmp_path, [{"text": "one"}])) == [{"text": "one"}]
