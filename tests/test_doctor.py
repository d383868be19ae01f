"""The doctor: one line for everything, and the right verdict when something is wrong."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from studio import compute, doctor, hub
from studio.doctor import Verdict, examine


@pytest.fixture(scope="module")
def report():
    # Far from a network, as every test: see conftest.py.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        return {check.name: check for check in examine()}


def packages(monkeypatch, tmp_path, text):
    monkeypatch.setattr(doctor, "REQUIREMENTS", tmp_path / "requirements.txt")
    doctor.REQUIREMENTS.write_text(text)
    return list(doctor._packages())


def test_a_report_has_every_line_once(report):
    names = ["Device", "bf16", "bitsandbytes", "Memory", "Disk", "Starter model", "Speed", "Hub", "Python"]
    assert set(names) <= set(report)
    wanted = {
        line.split(">")[0].split("[")[0]
        for line in doctor.REQUIREMENTS.read_text().splitlines()
        if line[:1] not in ("", "#")
    }
    assert wanted <= set(report)
    assert "gradio" in wanted


def test_the_report_says_what_each_precision_costs_in_speed(report):
    assert re.findall(r"(\w+) [\d,]+ \([\d,]+\)", report["Speed"].found) == ["fp32", "bf16", "fp16", "int8", "nf4"]


def test_every_line_says_something_and_what_is_not_fine_says_what_to_do(report):
    for check in report.values():
        assert check.found
        assert check.fix or check.verdict is Verdict.FINE


def test_nothing_is_wrong_with_the_machine_that_runs_the_tests(report):
    assert [check for check in report.values() if check.verdict is Verdict.WRONG] == []


def test_a_hub_out_of_reach_is_a_note_since_the_studio_works_without(report):
    assert report["Hub"].verdict is Verdict.NOTE
    assert "127.0.0.1:9" in report["Hub"].found


def test_a_hub_that_answers_is_fine(hub_server):
    check = doctor._hub()
    assert check.verdict is Verdict.FINE
    assert hub_server.url in check.found


def test_a_package_outside_its_range_is_wrong_with_the_command_that_mends_it(monkeypatch, tmp_path):
    (check,) = packages(monkeypatch, tmp_path, "# what is needed\n\npackaging<1\n")
    assert check.verdict is Verdict.WRONG
    assert check.found == f"{metadata.version('packaging')}, not <1"
    assert 'pip install "packaging<1"' in check.fix


def test_a_package_that_is_missing_is_wrong(monkeypatch, tmp_path):
    (check,) = packages(monkeypatch, tmp_path, "no-such-package-anywhere>=1\n")
    assert (check.verdict, check.found) == (Verdict.WRONG, "missing")


def test_a_package_within_its_range_is_fine_with_extras_and_as_a_build_of_its_own(monkeypatch, tmp_path):
    checks = packages(monkeypatch, tmp_path, "gradio[oauth]>=6\ntorch>=2.8\n")
    assert [(check.name, check.verdict) for check in checks] == [("gradio", Verdict.FINE), ("torch", Verdict.FINE)]


@pytest.mark.parametrize("content", [None, "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"])
def test_a_starter_that_did_not_come_with_the_clone_is_wrong(monkeypatch, tmp_path, content):
    monkeypatch.setattr(doctor, "STARTER_FOLDER", tmp_path)
    if content:
        (tmp_path / "model.safetensors").write_text(content)
    assert doctor._starter().verdict is Verdict.WRONG


def test_little_memory_and_a_full_disk_are_noted(monkeypatch):
    monkeypatch.setattr(compute, "free_memory", lambda: 10**9)
    monkeypatch.setattr(doctor, "DISK_WANTED", 10**18)
    for check in (doctor._memory(), doctor._disk()):
        assert check.verdict is Verdict.NOTE
        assert check.fix


def test_the_disk_is_that_of_the_cache_also_before_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "yet"))
    assert not Path(hub.cache_folder()).exists()
    assert "GB free where downloads go" in doctor._disk().found


def test_a_library_that_computes_wrongly_is_wrong(monkeypatch):
    assert doctor._bitsandbytes().verdict is Verdict.FINE
    monkeypatch.setattr(doctor, "NF4_ERROR_LIMIT", 0.01)
    assert doctor._bitsandbytes().verdict is Verdict.WRONG
