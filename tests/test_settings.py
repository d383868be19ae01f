"""What the environment decides: who may come in, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.errors import InputError
from studio.settings import REQUIREMENTS, Settings


def test_by_default_the_page_is_for_this_machine_alone():
    assert Settings.from_env({}) == Settings(host="127.0.0.1", port=None, shared=False)


def test_a_space_is_shared_and_open_to_its_proxy():
    assert Settings.from_env({"SPACE_ID": "owner/studio"}) == Settings(host="0.0.0.0", shared=True)


def test_a_space_stays_shared_whatever_host_it_is_given():
    assert Settings.from_env({"SPACE_ID": "owner/studio", "STUDIO_HOST": "127.0.0.1"}).shared


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "studio.example.org", "127.0.0.1.example.org"])
def test_a_host_that_others_reach_is_shared(host):
    assert Settings.from_env({"STUDIO_HOST": host}) == Settings(host=host, shared=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_loopback_host_is_not_shared(host):
    assert not Settings.from_env({"STUDIO_HOST": host}).shared


def test_our_port_wins_over_that_of_gradio():
    assert Settings.from_env({"STUDIO_PORT": "8000", "GRADIO_SERVER_PORT": "9000"}).port == 8000
    assert Settings.from_env({"GRADIO_SERVER_PORT": "9000"}).port == 9000
    assert Settings.from_env({"STUDIO_PORT": ""}).port is None


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "80 80", "7860.0", "²"])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(InputError, match="not a port"):
        Settings.from_env({"STUDIO_PORT": port})


def test_what_lasts_goes_into_the_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Settings.from_env({}).workspace == Settings().workspace == tmp_path / "workspace"
    assert Settings.from_env({"STUDIO_WORKSPACE": ""}).workspace == tmp_path / "workspace"
    assert Settings.from_env({"STUDIO_WORKSPACE": "a/../here"}).workspace == tmp_path / "here"
    assert Settings.from_env({"STUDIO_WORKSPACE": "/data"}).workspace == Path("/data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.from_env({"STUDIO_WORKSPACE": "~/kept"}).workspace == tmp_path / "kept"
    assert not list(tmp_path.iterdir()), "nothing is made before something is kept"


def test_the_environment_is_read_when_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("STUDIO_PORT", "1234")
    assert Settings.from_env().port == 1234


def test_the_requirements_are_where_the_doctor_looks_for_them():
    assert REQUIREMENTS.is_file()


def test_how_much_rows_may_take_is_told_in_gigabytes():
    assert Settings.from_env({}).rows_limit == 20_000_000_000
    assert Settings.from_env({"STUDIO_ROWS_GB": "0.5"}).rows_limit == 500_000_000
    assert (Settings.from_env({}).rows_days, Settings.from_env({"SPACE_ID": "owner/studio"}).rows_days) == (30, 1)


@pytest.mark.parametrize("size", ["-1", "much", "inf", "nan"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(InputError, match="no size"):
        Settings.from_env({"STUDIO_ROWS_GB": size})
