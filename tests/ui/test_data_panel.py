"""The panel of your own rows, handler by handler: what it says for what is chosen, measured and cut."""

from __future__ import annotations

import pytest
from dataset_steps import result, rows_of

from studio import dataset, jobs
from studio.dataset import ColumnMapping, CutOff, Format
from studio.errors import InputError
from studio.models import STARTER
from studio.ui import data_panel, data_view, dataset_chooser
from studio.ui.data_panel import Cut
from studio.ui.dataset_chooser import FILE, HUB, NO_COLUMN, RECOGNISED, STARTER_SET

COLUMNS = dict.fromkeys(f"column_{number}" for number in range(dataset_chooser.COLUMNS))
NAMED = {"where": STARTER_SET, "bundled": "persona", "file": None, "pasted": "", "name": ""}


@pytest.fixture(autouse=True)
def _workspace(monkeypatch, tmp_path):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path / "workspace"))


def last(updates):
    """What each output was given last."""
    merged = {}
    for update in updates:
        merged |= update
    return merged


def measure(looked=None, format_=RECOGNISED, columns=COLUMNS, **named):
    chosen = {**NAMED, **columns, **named}
    return last(data_panel.measure(model="starter", looked=looked, split=None, format_=format_, **chosen))


def measured_rows(tmp_path, rows):
    mapping = ColumnMapping.of(Format.TEXT, text="text")
    return result(jobs.measure_rows(rows_of(tmp_path, rows), STARTER, mapping, token=False))


def test_the_starter_set_is_measured_at_one_click_without_a_network():
    shown = measure()
    assert "762 rows, " in shown["summary"]
    assert "Read as messages" in shown["summary"]
    assert shown["cut_off"].limit == shown["limit"]["value"] == dict(shown["measured"].lengths.percentiles)[99]
    assert (shown["cut_off"].data, shown["cut_off"].mapping.format) == ("persona", Format.MESSAGES)
    assert sum(shown["bars"]["value"]["rows"]) == 762


def test_a_dataset_of_the_hub_is_fetched_only_after_its_size_was_said(hub_server):
    hub_server.add("alice/rows", {"train.jsonl": '{"text": "one"}\n' * 100}, kind="datasets")
    named = {"where": HUB, "name": "alice/rows"}
    first = measure(**named)
    assert "1.6 kB to download" in first["there"]
    assert "Press Measure again" in first["note"]
    assert not hub_server.requests("GET", r"train\.jsonl")
    second = measure(looked=first["looked"], **named)
    assert "100 rows, " in second["summary"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"where": FILE}, "No file is chosen"),
        ({"where": HUB}, "No dataset is named"),
        ({"where": HUB, "name": "alice/rows"}, "cannot be reached"),
    ],
)
def test_what_cannot_be_found_is_said_in_the_panel(named, said):
    shown = measure(**named)
    assert said in shown["note"]
    assert shown["summary"] == ""


def test_columns_that_are_not_recognised_are_asked_for_and_then_used(tmp_path):
    file = tmp_path / "odd.jsonl"
    file.write_text('{"one": "a question", "two": "an answer"}\n' * 5)
    named = {"where": FILE, "file": str(file)}
    refused = measure(**named)
    assert "the columns are one, two" in refused["note"]
    assert refused["advanced"]["open"]
    offered = dataset_chooser.format_chosen(format_="prompt-completion", rows=refused["rows"])
    assert [offered[f"column_{n}"]["label"] for n in range(4)] == ["Prompt", "Completion", "System", "Tools"]
    assert offered["column_0"]["choices"] == ["one", "two"]
    columns = {"column_0": "one", "column_1": "two", "column_2": NO_COLUMN, "column_3": NO_COLUMN}
    shown = measure(format_="prompt-completion", columns=columns, **named)
    assert "As you chose" in shown["summary"]


def test_a_guess_that_is_not_sure_is_shown_with_its_columns(tmp_path):
    file = tmp_path / "odd.jsonl"
    file.write_text('{"number": 1, "said": "a text"}\n' * 5)
    shown = measure(where=FILE, file=str(file))
    assert "not sure" in shown["note"]
    assert (shown["format_"], shown["column_0"]["value"]) == ("text", "said")
    assert "5 rows, " in shown["summary"]


def test_a_required_column_that_is_not_chosen_is_named():
    assert "needs a column for &#x27;text&#x27;" in measure(format_="text")["note"]


def test_another_source_takes_away_what_was_measured():
    shown = last(data_panel.look(looked=None, **NAMED | {"where": FILE}))
    assert shown["measured"] is None
    assert shown["cut_off"] is None
    assert (shown["file"]["visible"], shown["bundled"]["visible"]) == (True, False)


def test_the_cut_off_is_told_and_kept_without_measuring_anew(tmp_path):
    found = measured_rows(tmp_path, [{"text": "word " * count} for count in (1, 1, 1, 100)])
    shown = data_panel.cut_at(limit=50, measured=found)
    assert shown["cut_off"] == Cut("rows.jsonl", ColumnMapping.of(Format.TEXT, text="text"), 50)
    assert "At 50: 25 % of the rows are cut (1)" in shown["cost"]
    assert "no row is cut" in data_panel.cut_at(limit=1000, measured=found)["cost"]
    assert data_panel.cut_at(limit=50, measured=None) == {"cost": "", "cut_off": None}


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0 %"), (0.0001, "under 0.1 %"), (0.012, "1.2 %"), (0.07, "7.0 %"), (0.38, "38 %")]
)
def test_shares_have_a_digit_behind_the_point_where_they_are_small(share, said):
    cut = CutOff(512, 1, share, 1, share, 1, 0.5, -0.1)
    assert f"At 512: {said} of the rows are cut" in data_view.cut_off(cut)
    assert "10 % more than with batches" in data_view.cut_off(cut)


def test_another_model_makes_the_figures_old(tmp_path):
    found = measured_rows(tmp_path, [{"text": "one"}])
    (same,) = data_panel.show(model="starter", looked=None, measured=found, **NAMED)
    (other,) = data_panel.show(model="alice/other", looked=None, measured=found, **NAMED)
    assert same["note"] == ""
    assert "measured with starter" in other["note"]
    assert "alice/other" in other["note"]


def test_what_stands_out_is_told_by_row_and_nothing_in_it_is_html(tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    rows = [{"text": f"{hostile} <|end|> here"}, {"text": None}, {"text": "fine"}]
    shown = data_view.details(measured_rows(tmp_path, rows))
    assert "spelled out in 1 row," in shown
    assert "cannot be read: 1 row." in shown
    assert "<img" not in shown
    assert "rows.jsonl, row 1" in shown
    assert "row 2" in shown
    assert "&lt;|end|&gt;" in shown


def test_the_bars_hold_every_row_and_the_last_one_those_beyond(tmp_path):
    lengths = measured_rows(tmp_path, [{"text": "a " * 20}] * 300 + [{"text": "a " * 5000}]).lengths
    bars = data_view.histogram(lengths)
    assert sum(bars["value"]["rows"]) == 301
    assert "tokens and more: 1 row." in data_view.beyond(lengths)
    assert bars["x_lim"][1] > max(bars["value"]["tokens"])


def test_a_split_says_what_it_takes():
    offer = result(jobs.look_at_dataset(dataset_chooser.source_of(**NAMED), token=False))
    looked = dataset_chooser.Looked(offer.source, offer)
    assert "persona, test: 36.2 kB" in dataset_chooser.split_chosen(looked=looked, split="test")["there"]


def test_every_format_has_room_for_its_columns():
    assert max(len(dataset.REQUIRED[each] + dataset.OPTIONAL[each]) for each in Format) == dataset_chooser.COLUMNS


def test_a_path_is_no_file_that_was_chosen():
    with pytest.raises(InputError, match="No file"):
        dataset_chooser.source_of(where=FILE, bundled="persona", file=None, pasted="", name="/etc/passwd")
