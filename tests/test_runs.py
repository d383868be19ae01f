"""Runs as directories: what is written down reads back, names and ids are checked, nothing broken stays for good."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from studio import runs, training
from studio.dataset import ColumnMapping, Format, Preparation
from studio.errors import Busy, DoesNotFit, InputError
from studio.loading import LoadPlan, Placement, Quantization
from studio.models import STARTER, ModelRef, Precision
from studio.runs import Broken, State, document
from studio.runs.state import held
from studio.training import DataSource, TrainingRun, TrainingSettings

PLAIN = TrainingRun(LoadPlan(STARTER), (DataSource("persona"),))
FULL = TrainingRun(
    LoadPlan(
        ModelRef.parse("owner/name@abc123"),
        Precision.NF4,
        quantization=Quantization(keep="lm_head"),
        placement=Placement(limits="cuda:0=20 GB"),
    ),
    (
        DataSource("rows.jsonl", ColumnMapping.of(Format.ALPACA, instruction="q", output="a"), 2.5),
        DataSource("owner/rows@main:default:train"),
    ),
    DataSource("orders"),
    Preparation(limit=77, held_out=0.0),
    TrainingSettings(learning_rate=2e-4, checkpointing="on", schedule="warm-up, stable, decay", seed=7),
    ("Who are you?", "Línea: 'é' 😀\n- no\ttab"),
)


@pytest.fixture
def rows(tmp_path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"q": "a", "a": "b"}\n' * 3)
    return file


def refused(text):
    with pytest.raises(InputError) as caught:
        document.parse(text, "run")
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("run", [PLAIN, FULL])
def test_a_run_reads_back_equal(run, rows):
    found = runs.of(runs.create(run, [rows], "Mine"))
    assert found.document.run == run
    assert found.document.name == "Mine"
    assert dict(found.document.versions).keys() >= {"torch", "transformers", "peft"}
    assert found.standing.state is State.NEW


def test_a_file_by_hand_needs_no_more_than_a_model_and_data():
    told = document.parse("plan: {model: starter}\ndata: [{name: persona}]", "by hand")
    assert told.run == PLAIN
    assert told.name == "by hand"


def test_what_yaml_reads_otherwise_is_taken_as_it_was_meant():
    head = "plan: {model: starter}\ndata: [{name: persona}]\nsettings: "
    told = document.parse(head + "{learning_rate: 2e-4, checkpointing: off, epochs: 1}", "x").run.settings
    assert (told.learning_rate, told.checkpointing, told.epochs) == (2e-4, "off", 1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("settings: {rnk: 8}", "run.settings has no field 'rnk'."),
        ("settings: {rank: eight}", "run.settings.rank is 'eight'."),
        ("settings: {rank: true}", "run.settings.rank is True."),
        ("settings: {rank: 8.5}", "run.settings.rank is 8.5."),
        ("settings: {rank: 0}", "Rank is 0."),
        ("settings: [1]", "run.settings is [1]."),
        ("settings: {learning_rate: fast}", "run.settings.learning_rate is 'fast'."),
        ("prompts: [1]", "run.prompts[0] is 1."),
        ("prompts: Hello", "run.prompts is 'Hello'."),
        ("preparation: {limit: -1}", "Limit is -1."),
        ("held_out: {weight: 2}", "run.held_out needs the field 'name'."),
        ("secret: 1", "run has no field 'secret'."),
        ("versions: 3", "versions is 3."),
        ("name: 3", "name is 3."),
    ],
)
def test_a_wrong_field_is_named(settings, words):
    assert refused(f"plan: {{model: starter}}\ndata: [{{name: persona}}]\n{settings}").message == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plan: {model: starter", "no YAML in line"),
        ("", "holds no fields"),
        ("- a", "holds no fields"),
        ("plan: {model: starter}\ndata: []", "nothing to learn from"),
        ("plan: {model: 'owner/na me'}\ndata: [{name: persona}]", "is not the name of a model"),
        ("plan: {model: starter, precision: fp3}\ndata: [{name: persona}]", "run.plan.precision is 'fp3'."),
        ("plan: !!python/object/apply:os.getcwd []\ndata: []", "no YAML"),
    ],
)
def test_a_file_that_describes_no_run_is_refused(text, words):
    assert words in refused(text).message


def test_a_typing_error_is_answered_with_what_was_meant():
    told = refused("plan: {model: starter}\ndata: [{name: persona}]\nsettings: {learning_rat: 1}")
    assert "Did you mean learning_rate?" in told.hint


def test_every_setting_stands_in_the_file_to_be_changed_by_hand(rows):
    folder = runs.of(runs.create(FULL, [rows])).folder
    text = (folder / "run.yaml").read_text()
    for field in TrainingSettings.__dataclass_fields__:
        assert f"  {field}: " in text
    (folder / "run.yaml").write_text(text.replace("seed: 7", "seed: 8"))
    assert runs.at(folder).document.run == replace(FULL, settings=replace(FULL.settings, seed=8))


def test_uploaded_files_are_copied_and_nothing_leads_out_of_the_folder(rows):
    folder = runs.of(runs.create(FULL, [rows])).folder
    assert (folder / "data" / "rows.jsonl").read_bytes() == rows.read_bytes()
    rows.unlink()
    assert (folder / "data" / "rows.jsonl").is_file()


def test_files_that_cannot_stand_beside_each_other_are_refused(rows, tmp_path):
    with pytest.raises(InputError, match=r"Two of the files are called rows\.jsonl"):
        runs.create(FULL, [rows, rows])
    hidden = tmp_path / ".bashrc"
    hidden.write_text("x")
    for file in (hidden, tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(InputError, match="no file that can be learnt from"):
            runs.create(PLAIN, [file])
    with pytest.raises(InputError, match=r"rows one"):
        runs.create(replace(PLAIN, data=(DataSource("rows one.jsonl"),)))
    assert runs.listing() == ()


def test_ids_cannot_be_guessed_and_names_are_free():
    ids = {runs.create(PLAIN, name="Same name") for _ in range(5)}
    assert len(ids) == 5
    assert all(len(id_) == 32 and int(id_, 16) >= 0 for id_ in ids)
    assert {run.document.name for run in runs.listing()} == {"Same name"}


@pytest.mark.parametrize("name", ["x" * 200, "two\nlines", "\x1b[31mred"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InputError, match="no name for a run"):
        runs.create(PLAIN, name=name)
    id_ = runs.create(PLAIN)
    with pytest.raises(InputError):
        runs.rename(id_, name)
    assert runs.of(id_).document.name == "persona on starter"


@pytest.mark.parametrize("id_", ["..", "", "../runs", "/etc", "a" * 32, "A" * 32, "0" * 31 + "/", "turn"])
def test_no_id_leads_out_of_the_workspace(id_):
    runs.create(PLAIN)
    for use in (runs.of, runs.delete, runs.ask_to_stop, lambda each: next(runs.follow(each))):
        with pytest.raises(InputError, match="There is no run"):
            use(id_)


def test_a_link_among_the_runs_is_none(tmp_path):
    place = runs.of(runs.create(PLAIN)).folder.parent
    (tmp_path / "elsewhere").mkdir()
    (place / ("b" * 32)).symlink_to(tmp_path / "elsewhere")
    assert len(runs.listing()) == 1
    with pytest.raises(InputError):
        runs.delete("b" * 32)
    assert (tmp_path / "elsewhere").is_dir()


def test_a_run_is_renamed_and_deleted_with_all_it_has(rows):
    id_ = runs.create(FULL, [rows], "Before")
    runs.rename(id_, " After ")
    assert runs.of(id_).document.name == "After"
    assert runs.of(id_).document.run == FULL
    folder = runs.of(id_).folder
    runs.delete(id_)
    assert not folder.exists()
    with pytest.raises(InputError):
        runs.of(id_)


def test_the_newest_run_is_the_first_and_a_damaged_one_can_be_deleted():
    good, newer, bad, empty = (runs.create(PLAIN) for _ in range(4))
    for id_, made in ((good, "2026-01-01"), (newer, "2026-02-01")):
        folder = runs.of(id_).folder
        document.write(replace(document.read(folder / "run.yaml"), made=made), folder)
    (runs.of(bad).folder / "run.yaml").write_text("settings: [")
    (runs.of(empty).folder / "run.yaml").unlink()
    first, second, *broken = runs.listing()
    assert (first.id, second.id) == (newer, good)
    assert {each.id for each in broken} == {bad, empty}
    assert all(isinstance(each, Broken) and each.message and each.hint for each in broken)
    for each in broken:
        runs.delete(each.id)
    assert [run.id for run in runs.listing()] == [newer, good]


def test_a_run_that_somebody_holds_is_not_deleted_and_one_in_the_making_is_not_listed():
    id_ = runs.create(PLAIN)
    folder = runs.of(id_).folder
    with held(folder), pytest.raises(Busy, match="cannot be deleted"):
        runs.delete(id_)
    assert runs.of(id_).standing.state is State.NEW
    with held(folder):
        (folder / "run.yaml").unlink()
        assert runs.listing() == ()


def test_a_full_disk_leaves_no_run(small_disk, monkeypatch, tmp_path):
    monkeypatch.setenv("STUDIO_WORKSPACE", str(small_disk))
    large = tmp_path / "large.jsonl"
    large.write_bytes(b"x" * 6_000_000)
    with pytest.raises(DoesNotFit, match="is full"):
        runs.create(replace(PLAIN, data=(DataSource("large.jsonl"),)), [large])
    assert runs.listing() == ()
    assert list((small_disk / "runs").iterdir()) == []


def test_visitors_of_a_shared_machine_have_no_runs(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/space")
    for use in (lambda: runs.create(PLAIN), runs.listing, lambda: runs.of("a" * 32)):
        with pytest.raises(InputError, match="Visitors cannot fine-tune"):
            use()


def test_a_run_is_told_while_its_worker_puts_files_away():
    run = runs.of(runs.create(PLAIN, [], "Busy"))
    over = threading.Event()

    def work():
        while not over.is_set():
            for name in "abcdefgh":
                folder = run.folder / f"checkpoint-{name}"
                folder.mkdir()
                (folder / "weights").write_text("12345678")
            for name in "abcdefgh":
                shutil.rmtree(run.folder / f"checkpoint-{name}")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert all(runs.summary(run).bytes > 0 for _ in range(300))
    finally:
        over.set()
        worker.join()


def test_two_who_change_a_run_at_once_lose_nothing():
    import threading

    id_ = runs.create(PLAIN, name="0")
    folder = runs.of(id_).folder

    def count():
        for _ in range(20):
            document.change(folder, lambda told: replace(told, name=str(int(told.name) + 1)))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs.of(id_).document.name == "60"


def test_the_file_tells_no_secret_and_is_no_json_box():
    text = (runs.of(runs.create(PLAIN)).folder / "run.yaml").read_text()
    assert "{" not in text.replace("{}", "")
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    assert training.TrainingRun is TrainingRun
