"""Files into rows: by what is in them, with what is wrong named, and never all in memory at once."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pytest
from dataset_steps import all_of, read, result, rows_of
from pyarrow import parquet

from studio import dataset
from studio.dataset import FileFormat
from studio.errors import DoesNotFit, InputError, NotFound
from studio.events import Phase, Progress
from studio.models import DatasetRef

TWO = [{"a": "x", "b": 1}, {"a": "y", "b": 2}]
TWO_TEXTS = [{"a": "x", "b": "1"}, {"a": "y", "b": "2"}]
LINES = "".join(json.dumps(row) + "\n" for row in TWO)

GOOD = {
    "lines of JSON": ("f.jsonl", LINES, FileFormat.JSONL, TWO),
    "blank lines between": ("f.jsonl", LINES.replace("\n", "\n\n"), FileFormat.JSONL, TWO),
    "no end of the last line": ("f.jsonl", LINES.rstrip(), FileFormat.JSONL, TWO),
    "a mark at the beginning": ("f.jsonl", "\ufeff" + LINES, FileFormat.JSONL, TWO),
    "one row": ("f.json", '{"a": "x"}', FileFormat.JSONL, [{"a": "x"}]),
    "one row over several lines": ("f.json", '{"a":\n"x"}', FileFormat.JSON, [{"a": "x"}]),
    "a list": ("f.json", json.dumps(TWO, indent=1), FileFormat.JSON, TWO),
    "a list on one line": ("f.json", json.dumps(TWO), FileFormat.JSON, TWO),
    "an object with data": ("f.json", json.dumps({"version": 1, "data": TWO}), FileFormat.JSON, TWO),
    "an object with data over lines": ("f.json", json.dumps({"data": TWO}, indent=1), FileFormat.JSON, TWO),
    "a marked list": ("f.json", "\ufeff" + json.dumps(TWO), FileFormat.JSON, TWO),
    "a table": ("f.csv", "a,b\nx,1\ny,2\n", FileFormat.CSV, TWO_TEXTS),
    "a table with semicolons": ("f.csv", 'a;b\r\nx;1\r\n"y";2', FileFormat.CSV, TWO_TEXTS),
    "a table with tabs": ("f.tsv", "a\tb\nx\t1\ny\t2\n", FileFormat.TSV, TWO_TEXTS),
    "a cell over two lines": ("f.csv", 'a,b\n"x\n, ""y""",1\n', FileFormat.CSV, [{"a": 'x\n, "y"', "b": "1"}]),
    "the index of pandas": ("f.csv", ",b\n0,1\n", FileFormat.CSV, [{"column 1": "0", "b": "1"}]),
    "empty cells": ("f.csv", "a,b\nx,\n", FileFormat.CSV, [{"a": "x", "b": None}]),
    "what pandas lacks": ("f.jsonl", '{"a": NaN}', FileFormat.JSONL, [{"a": None}]),
    "lines of text": ("f.txt", "one\n[two]\n", FileFormat.LINES, [{"text": "one"}, {"text": "[two]"}]),
    "paragraphs": ("f.txt", "a\nb\n\n\nc", FileFormat.PARAGRAPHS, [{"text": "a\nb"}, {"text": "c"}]),
    # Content and ending disagree.
    "JSON called text": ("f.txt", LINES, FileFormat.JSONL, TWO),
    "JSON called a table": ("f.csv", LINES, FileFormat.JSONL, TWO),
    "a list called lines": ("f.jsonl", json.dumps(TWO, indent=1), FileFormat.JSON, TWO),
    "an object called lines": ("f.jsonl", json.dumps({"data": TWO}, indent=1), FileFormat.JSON, TWO),
    "a table called JSON": ("f.jsonl", "a,b\nx,1\ny,2\n", FileFormat.CSV, TWO_TEXTS),
    "a table with tabs called csv": ("f.csv", "a\tb\nx\t1\ny\t2\n", FileFormat.TSV, TWO_TEXTS),
    "a text that begins with a brace": ("f.txt", "{curly} words\nmore", FileFormat.LINES, None),
    "a text that begins with a bracket": ("f.txt", "[1] A reference\n[2] More", FileFormat.LINES, None),
}
BAD = {
    "empty": ("f.jsonl", "", "f.jsonl is empty"),
    "blank": ("f.jsonl", " \n\n", "f.jsonl is empty"),
    "a header alone": ("f.csv", "a,b\n", "f.csv has no rows"),
    "an empty list": ("f.json", "[]", "f.json has no rows"),
    "gzip": ("f.jsonl", b"\x1f\x8b\x08", "f.jsonl is a gzip archive"),
    "binary": ("f.jsonl", b'{"a": 1}\n\0\1', "f.jsonl is binary, not text: byte 9 is zero"),
    "binary far behind": ("f.txt", b"line\n" * 20_000 + b"\0\n", "f.txt is binary, not text: line 20001"),
    "UTF-16": ("f.jsonl", LINES.encode("utf-16"), "f.jsonl is written in UTF-16"),
    "broken UTF-8": ("f.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"not UTF-8: byte 16 \(line 2\) is 0xff"),
    "broken UTF-8 behind a mark": ("f.txt", b"\xef\xbb\xbfa\xff", r"not UTF-8: byte 4 \(line 1\) is 0xff"),
    "broken UTF-8 in a list": ("f.json", b'[{"a": 1},\n{"a": "\xff"}]', "not UTF-8: byte 18 is 0xff"),
    "a cut character": ("f.json", '[{"a": "é'.encode()[:-1], "not UTF-8: byte 8 is 0xc3"),
    "wrong JSON": ("f.jsonl", LINES + '{"a": oops}\n', r"f.jsonl, line 3 \(row 3\) is not JSON.*character 7.*oops"),
    "wrong JSON behind blank lines": ("f.jsonl", '{"a": 1}\n\n\n{"a"}', r"line 4 \(row 2\) is not JSON"),
    "a row cut off": ("f.jsonl", '{"a": 1}\n{"a": "x', r"line 2 \(row 2\) is not JSON: unterminated string at"),
    "no object": ("f.jsonl", LINES + "[1, 2]\n", r"line 3 \(row 3\) is a list and no object: '\[1, 2\]'"),
    "lists alone": ("f.jsonl", "[1]\n[2]\n", r"line 1 \(row 1\) is a list"),
    "text called JSON": ("f.jsonl", "hello there\n", r"line 1 \(row 1\) is not JSON.*hello there"),
    "a table behind JSON": ("f.jsonl", LINES + "a,b\nx,1\n", r"line 3 \(row 3\) is not JSON.*a,b"),
    "JSON behind a table": ("f.csv", "a,b,c\nx,1,2\n" + LINES, r"f.csv, line 3 \(row 2\) has 2 cells"),
    "wrong JSON in a list": ("f.json", '[{"a": 1},\n{"a": tru}]', r"line 2 \(row 2\) is not JSON.*tru"),
    "a list without its end": ("f.json", '[{"a": 1},\n{"a": 2}', "line 2 is not JSON: expected ','.*end of the file"),
    "no object in a list": ("f.json", '[{"a": 1},\n"b"]', r"line 2 \(row 2\) is text and no object: 'b'"),
    "nothing in a row": ("f.jsonl", '{"a": 1}\n{}\n', r"f.jsonl, line 2 \(row 2\) is an object without anything"),
    "nothing in an object": ("f.json", "{\n}", r"f.json \(row 1\) is an object without anything"),
    "something behind a list": (
        "f.json",
        '[{"a": 1}]\n{',
        "line 2 is not JSON: expected nothing behind the list and found",
    ),
    "two objects over lines": ("f.json", '{\n"a": 1}\n{"a": 2}', "line 3 is not JSON: expected nothing behind the"),
    "a number of many digits": (
        "f.jsonl",
        f'{{"a": 1}}\n{{"a": [{2**63}]}}',
        r"row 2\) holds a number that is too large",
    ),
    "a number of many digits in a list": ("f.json", f'[{{"a": -{2**64}}}]', r"line 1 \(row 1\) holds a number"),
    "an infinite number": ("f.jsonl", '{"a": [1e999]}', r"f.jsonl, row 1, column 'a' holds an infinite number"),
    "half a character": ("f.jsonl", '{"b": 1}\n{"a": "\\ud83d"}', r"row 2, column 'a' holds half a character"),
    "too deep": ("f.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", r"line 1 \(row 1\) is nested too deeply"),
    "too many cells": ("f.csv", "a,b\n1,2\n1,2,3\n", r"f.csv, line 3 \(row 2\) has 3 cells and the header 2: .*3"),
    "too few cells": ("f.csv", 'a,b\n"1\n1",2\n1\n', r"f.csv, line 4 \(row 2\) has 1 cells"),
    "an open quote": ("f.csv", 'a,b\n1,"2\n', "f.csv, line 2 cannot be read.*unexpected end of data"),
    "a duplicated header": ("f.csv", "a,b,a\n1,2,3\n", "2 columns called 'a': numbers 1 and 3"),
    "text called Parquet": ("f.parquet", "hello", "is no Parquet file: it begins with 'hello'"),
    "broken Parquet": ("f.parquet", b"PAR1 and nothing", "is a Parquet file that is cut or broken"),
}


@pytest.mark.parametrize("case", GOOD)
def test_rows_are_read_by_what_is_in_the_file(tmp_path, case):
    name, content, kind, expected = GOOD[case]
    rows = read(tmp_path, name, content)
    assert rows.parts == (dataset.Part(name, kind, rows.count),)
    assert expected is None or all_of(rows) == expected


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_row_is_named_by_file_line_and_value(tmp_path, case):
    name, content, words = BAD[case]
    with pytest.raises(InputError, match=words):
        read(tmp_path, name, content)
    assert not list(tmp_path.glob("cache/*")), "nothing of it is kept"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"no\.jsonl"):
        result(dataset.read(tmp_path / "no.jsonl", cache=tmp_path))


# Columns


def test_a_column_has_the_type_of_its_values_and_mixtures_are_kept_as_they_are(tmp_path):
    rows = [
        {"text": "x", "whole": 1, "float": 1, "flag": True, "mixed": "7", "null": None},
        {"text": None, "whole": 2, "float": 0.5, "flag": False, "mixed": 7, "late": [{"b": 1}, "c"]},
    ]
    held = rows_of(tmp_path, rows)
    assert all_of(held) == [{**dict.fromkeys(held.columns), **row} for row in rows]
    features = held.open().features
    kinds = {"text": "string", "whole": "int64", "float": "float64", "flag": "bool", "null": "string"}
    assert {column: features[column].dtype for column in kinds} == kinds


def test_objects_do_not_get_the_keys_of_others(tmp_path):
    calls = [{"m": [{"arguments": {"city": "Paris"}}]}, {"m": [{"arguments": {"n": 1}}]}]
    assert all_of(rows_of(tmp_path, calls)) == calls


def test_a_column_that_changes_after_thousands_of_rows_is_read_again_and_right(tmp_path):
    rows = [{"a": None}] * 1500 + [{"a": "x", "b": 1}] + [{"a": "y"}] * 1500
    held = rows_of(tmp_path, rows)
    assert held.count == 3001
    assert all_of(held)[1499:1502] == [{"a": None, "b": None}, {"a": "x", "b": 1}, {"a": "y", "b": None}]


# Parquet


def test_parquet_keeps_its_types_and_reads_as_the_datasets_library_wrote_it(tmp_path):
    from datasets import Dataset

    turns = [{"role": "user", "content": "hi"}]
    Dataset.from_dict({"messages": [turns, turns], "n": [1, None]}).to_parquet(tmp_path / "a.parquet")
    rows = result(dataset.read(tmp_path / "a.parquet", cache=tmp_path / "c"))
    assert all_of(rows) == [{"messages": turns, "n": 1}, {"messages": turns, "n": None}]
    assert rows.parts == (dataset.Part("a.parquet", FileFormat.PARQUET, 2),)


def test_categories_are_their_words_and_the_index_of_pandas_is_left_out(tmp_path):
    table = pyarrow.table({"a": pyarrow.array(["x", "y", "x"]).dictionary_encode(), "__index_level_0__": [0, 1, 2]})
    parquet.write_table(table, tmp_path / "a.jsonl")  # called wrongly, too
    rows = result(dataset.read(tmp_path / "a.jsonl", cache=tmp_path / "c"))
    assert all_of(rows) == [{"a": "x"}, {"a": "y"}, {"a": "x"}]


def test_files_of_one_dataset_are_read_in_order_and_rows_know_where_they_are_from(tmp_path):
    for name, values in {"a": [1, 2], "b": [3]}.items():
        parquet.write_table(pyarrow.table({"n": values}), tmp_path / f"{name}.parquet")
    rows = result(dataset.read(tmp_path, cache=tmp_path / "c", files=["a.parquet", "b.parquet"]))
    assert [row["n"] for row in all_of(rows)] == [1, 2, 3]
    assert [rows.place(index) for index in range(3)] == ["a.parquet, row 1", "a.parquet, row 2", "b.parquet, row 1"]


def test_files_that_do_not_belong_together_are_named(tmp_path):
    parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"n": ["x"]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text('{"n": 1}')
    with pytest.raises(InputError, match=r"b\.parquet and a\.parquet do not have the same columns: n \(int64\)"):
        result(dataset.read(tmp_path, cache=tmp_path / "c", files=["a.parquet", "b.parquet"]))
    with pytest.raises(InputError, match=r"a\.parquet is Parquet and c\.jsonl is jsonl"):
        result(dataset.read(tmp_path, cache=tmp_path / "c", files=["a.parquet", "c.jsonl"]))


def test_parquet_with_broken_pages_says_behind_which_row(tmp_path):
    values = [f"{n:050}" for n in range(4000)]
    file = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table({"n": values}), file, compression="gzip", row_group_size=2000, use_dictionary=False
    )
    content = bytearray(file.read_bytes())
    middle = parquet.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content[middle + 40 : middle + 400] = b"\xff" * 360
    with pytest.raises(InputError, match=r"a\.parquet is broken behind row 2000"):
        read(tmp_path, "a.parquet", bytes(content))


# What is kept, and how much memory and time it takes


def test_rows_are_kept_in_the_given_folder_alone_and_found_again_until_the_file_changes(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home))
    first = rows_of(tmp_path, TWO)
    written = first.file.stat().st_ino
    assert first.file.parent == tmp_path / "cache"
    assert pickle.loads(pickle.dumps(first)) == first
    again = result(dataset.read(tmp_path / "rows.jsonl", cache=tmp_path / "cache"))
    assert again == first
    assert again.file.stat().st_ino == written
    changed = rows_of(tmp_path, [*TWO, {"a": "z"}])
    assert (changed.count, changed.file != first.file) == (3, True)
    assert not home.exists()


def test_progress_counts_the_bytes_of_the_files(tmp_path):
    (tmp_path / "f.jsonl").write_text(LINES * 20_000)
    size = (tmp_path / "f.jsonl").stat().st_size
    *events, _ = dataset.read(tmp_path / "f.jsonl", cache=tmp_path / "c")
    assert events[0] == Progress(Phase.READ_ROWS)
    assert events[-1] == Progress(Phase.READ_ROWS, size, size)


def test_reading_that_is_closed_stops_and_leaves_nothing(tmp_path):
    (tmp_path / "f.jsonl").write_text(LINES * 500_000)
    events = dataset.read(tmp_path / "f.jsonl", cache=tmp_path / "c")
    next(event for event in events if event.done)
    begin = time.monotonic()
    events.close()
    assert time.monotonic() - begin < 3  # it takes some 0.02; reading all of it 10
    assert not list((tmp_path / "c").iterdir())


def test_a_disk_that_fills_up_is_said_with_its_folder(tmp_path, small_disk):
    (tmp_path / "f.jsonl").write_text((json.dumps({"text": "x" * 1000}) + "\n") * 10_000)
    with pytest.raises(DoesNotFit, match=r"The disk with .*/c filled up with the rows of f\.jsonl"):
        result(dataset.read(tmp_path / "f.jsonl", cache=small_disk / "c"))
    assert not list((small_disk / "c").iterdir())
    with pytest.raises(InputError, match="Not a directory"):
        result(dataset.read(tmp_path / "f.jsonl", cache=tmp_path / "f.jsonl" / "c"))


def test_a_row_of_ten_megabytes_is_a_row(tmp_path):
    long = "word " * 2_000_000
    for name, content in {
        "f.jsonl": json.dumps({"text": long}) + '\n{"text": "short"}',
        "f.json": json.dumps([{"text": long}, {"text": "short"}]),
        "f.csv": f"text,b\n{long},1\nshort,2\n",
        "f.txt": f"{long}\n\nshort\n",
    }.items():
        held = all_of(read(tmp_path, name, content))
        assert [len(row["text"]) for row in held] == [len(long), 5], name


def test_a_row_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("studio.dataset.parsing.LONGEST_ROW", 1_000_000)
    with pytest.raises(InputError, match="line 2 is longer than 1 MB"):
        read(tmp_path, "f.txt", "a\n" + "x" * 1_000_001)
    with pytest.raises(InputError, match=r"line 1 \(row 2\) is longer than 1 MB"):
        read(tmp_path, "f.json", '[{"a": 1}, {"a": "' + "x" * 4_000_000)


LARGE = """
import json, sys, threading, time
from pathlib import Path
sys.path[:0] = ["tests"]
from dataset_steps import result
from pico import byte_tokenizer
from studio import dataset

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024

folder = Path(sys.argv[1])
def everything(name, count):
    with (folder / name).open("w") as file:
        for number in range(count):
            file.write(json.dumps({"text": f"row {number}", "other": "x" * 2000}) + "\\n")
    rows = result(dataset.read(folder / name, cache=folder / "cache"))
    mapping = dataset.recognise(rows).mapping
    return result(dataset.measure(rows, byte_tokenizer(), mapping))

everything("small.jsonl", 3000)  # the libraries are in memory now
before, peak, over = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not over.wait(0.02):
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch); thread.start()
lengths = everything("large.jsonl", 40_000)
over.set(); thread.join()
print(json.dumps({"grew": peak - before, "rows": lengths.rows, "failed": lengths.failed}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
def test_rows_of_eighty_megabytes_take_no_more_memory_than_a_few(tmp_path):
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["rows"], found["failed"]) == (40_000, 0)
    # The file has 82 MB, and so have its rows as Python has them.
    assert found["grew"] < 60, found


# Splits


def test_the_bundled_sets_have_their_splits():
    found = {name: dataset.layout(dataset.place_of(DatasetRef.parse(name))) for name in ("persona", "orders")}
    splits = {name: [(split.name, *split.files) for split in layout.splits] for name, layout in found.items()}
    assert splits == {
        "persona": [("train", "train.jsonl"), ("test", "test.jsonl")],
        "orders": [
            ("train", "train.jsonl"),
            ("test_combinations", "test_combinations.jsonl"),
            ("test_frames", "test_frames.jsonl"),
            ("test_unseen_words", "test_unseen_words.jsonl"),
        ],
    }
    assert found["persona"].split().name == "train"


def test_a_file_and_a_folder_of_this_machine_have_a_layout(tmp_path):
    (tmp_path / "train.jsonl").write_text(LINES)
    (tmp_path / "validation.jsonl").write_text(LINES)
    of_folder = dataset.layout(dataset.place_of(DatasetRef.parse(str(tmp_path))))
    assert [(split.name, split.bytes) for split in of_folder.splits] == [
        ("train", len(LINES)),
        ("validation", len(LINES)),
    ]
    of_file = dataset.layout(tmp_path / "train.jsonl")
    assert of_file.split().files == ("train.jsonl",)
    with pytest.raises(InputError, match="no split 'tes'") as caught:
        of_folder.split("tes")
    assert "train, validation" in caught.value.hint
    with pytest.raises(InputError, match="no config 'en'"):
        dataset.layout(tmp_path, "en")
    with pytest.raises(NotFound, match="nothing"):
        dataset.place_of(DatasetRef.parse(str(tmp_path / "nothing")))
