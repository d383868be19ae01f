"""The command line: what it prints where, and with which exit code it ends."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
import threading

import pytest
from loopback_hub.samples import SMALL
from pico import change_json, save_pico

from studio import jobs
from studio.cli import commands, main
from studio.events import Finished, Phase, Progress, TextDelta, Waiting
from studio.generation import GenerationSettings, Reply, StopReason


@pytest.fixture(autouse=True)
def _unloaded():
    yield
    list(jobs.unload())


def studio(*arguments, **options):
    """The real thing, in a process of its own."""
    command = [sys.executable, "-m", "studio", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def answer(capsys, *arguments):
    """Exit code, stdout and stderr of `generate`."""
    code = main(["generate", *map(str, arguments)])
    return code, *capsys.readouterr()


# In a process of its own


def test_a_reply_streams_as_json_one_event_a_line(pico):
    done = studio("generate", pico, "--prompt", "Hé 😀", "--seed", 7, "--max-new-tokens", 40, "--json")
    assert done.returncode == 0, done.stderr
    *events, last = map(json.loads, done.stdout.splitlines())
    assert {event["event"] for event in events} <= {"progress", "waiting", "text"}
    assert last["event"] == "finished"
    result = last["result"]
    assert result["text"] == "".join(event["text"] for event in events if event["event"] == "text")
    assert (result["seed"], result["tokens"], result["stop"]) == (7, 40, "length")
    assert result["tokens_per_second"] > 0


def test_a_failure_is_told_on_stderr_with_what_to_do_and_no_traceback(tmp_path):
    done = studio("generate", tmp_path / "nowhere", "--prompt", "Hi", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    message, hint = done.stderr.splitlines()[-2:]
    assert message == f"There is no folder {tmp_path / 'nowhere'}."
    assert hint == "Check the path, or choose a model of the Hub."
    assert "Traceback" not in done.stderr


def test_a_prompt_comes_from_stdin_and_a_reader_that_has_enough_is_no_failure_of_ours(pico):
    command = [
        sys.executable,
        "-m",
        "studio",
        "generate",
        str(pico),
        "--prompt",
        "-",
        "--max-new-tokens",
        "400",
        "--json",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write("Hé 😀".encode())
        process.stdin.close()
        assert json.loads(process.stdout.readline())["event"] == "progress"
        process.stdout.close()
        assert process.wait(120) in (0, 1)
        assert b"Traceback" not in process.stderr.read()


# In this process


def test_a_reply_is_text_on_stdout_and_the_rest_on_stderr(pico, capsys):
    arguments = (pico, "--prompt", "Hi", "--greedy", "--max-new-tokens", 12)
    code, out, err = answer(capsys, *arguments)
    *_, last = map(json.loads, answer(capsys, *arguments, "--json")[1].splitlines())
    assert code == 0
    assert out == last["result"]["text"] + "\n"
    assert "read" in err
    assert "12 tokens" in err
    assert "length" in err


def test_a_heartbeat_without_news_is_left_out_and_a_repeated_piece_is_not(capsys):
    reply = Reply("aa", 1, 2, 0.1, 0.2, StopReason.END, 1, None)
    beat, piece = Progress(Phase.DECODE, 1), TextDelta("a", 1)
    commands._show_json(
        iter([beat, beat, beat, piece, beat, Waiting(1, "answering", 0.5), TextDelta("a", 2), Finished(reply)])
    )
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events == ["progress", "text", "progress", "waiting", "text", "finished"]


def test_what_is_said_meanwhile_is_said_once(capsys):
    download = [Progress(Phase.DOWNLOAD, done, 1000) for done in (0, 1, 2, 500, 1000)]
    commands._show_text(
        iter([*download, Waiting(1, "answering", 0.1), Waiting(1, "answering", 0.4), Progress(Phase.READ)])
    )
    said = capsys.readouterr().err.splitlines()
    assert said == ["download 0 %", "download 50 %", "download 100 %", "waiting for the model: answering", "read"]


def test_the_prompt_may_come_from_stdin(pico, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi"))
    settings = ("--greedy", "--max-new-tokens", 8)
    assert answer(capsys, pico, "--prompt", "-", *settings)[:2] == answer(capsys, pico, "--prompt", "Hi", *settings)[:2]


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt_is_refused(pico, capsys, prompt):
    code, out, err = answer(capsys, pico, "--prompt", prompt)
    assert (code, out) == (1, "")
    assert err.splitlines() == ["There is no prompt.", "Type something for the model to read."]


def test_bytes_that_are_no_text_are_refused_from_both_sides(pico, capsys, monkeypatch):
    assert answer(capsys, pico, "--prompt", "a\udcff")[0] == 1
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    code, out, err = answer(capsys, pico, "--prompt", "-")
    assert (code, out) == (1, "")
    assert "not text" in err


def test_raw_and_system_change_what_the_model_reads(pico, capsys):
    def prompt_tokens(*more):
        out = answer(capsys, pico, "--prompt", "Hello", "--max-new-tokens", 1, "--json", *more)[1]
        return json.loads(out.splitlines()[-1])["result"]["prompt_tokens"]

    assert prompt_tokens("--raw") == 5
    assert 5 < prompt_tokens() < prompt_tokens("--system", "Be kind.")


def test_the_precision_is_the_one_that_was_asked_for(pico, capsys):
    for precision in ("fp32", "bf16"):
        assert answer(capsys, pico, "--prompt", "Hi", "--max-new-tokens", 1, "--precision", precision)[0] == 0
        assert jobs.SESSION.status().resident.plan.precision == precision


def test_every_setting_has_an_option_that_arrives(pico, capsys, monkeypatch):
    asked = []

    def generate(request, *, token):
        asked.append(request.settings)
        yield from ()

    monkeypatch.setattr(jobs, "generate", generate)
    fields = dataclasses.fields(GenerationSettings)
    values = {f.name: True if isinstance(f.default, bool) else f.metadata["max"] for f in fields}
    options = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in values.items()]
    assert main(["generate", str(pico), "--prompt", "Hi", *options]) == 0
    assert main(["generate", str(pico), "--prompt", "Hi"]) == 0
    assert asked == [GenerationSettings(**values), GenerationSettings()]


@pytest.mark.parametrize(
    "arguments",
    [
        *(["inspect"], ["inspect", "starter", "--sing"]),
        *(["load"], ["load", "starter", "--keep"], ["load", "starter", "--precision", "fp64"]),
        *([], ["sing"], ["generate"], ["generate", "starter"], ["generate", "--prompt", "Hi"]),
        ["generate", "starter", "--prompt", "Hi", "--precision", "fp64"],
        ["generate", "starter", "--prompt", "Hi", "--top-k", "many"],
        ["generate", "starter", "--prompt", "Hi", "--sing"],
    ],
)
def test_wrong_usage_ends_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m studio" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--temperature=9", "--temperature=nan", "--seed=-1", "--beams=0"])
def test_a_setting_out_of_bounds_ends_with_one_and_its_bounds(pico, capsys, option):
    code, out, err = answer(capsys, pico, "--prompt", "Hi", option)
    assert (code, out) == (1, "")
    assert option[2:].split("=")[0] in err.lower()


@pytest.mark.parametrize("command", [[], ["generate"], ["inspect"], ["load"], ["estimate"], ["doctor"]])
def test_help_is_there_for_every_command(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: python -m studio" in capsys.readouterr().out


def test_ctrl_c_ends_quietly(pico, capsys, monkeypatch):
    def interrupted(request, *, token):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(jobs, "generate", interrupted)
    code, out, err = answer(capsys, pico, "--prompt", "Hi")
    assert (code, out, err) == (130, "", "")


def test_the_model_is_handed_back_after_a_failure_on_the_way_out(pico, capsys, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        with pytest.raises(OSError, match="No space"):
            main(["generate", str(pico), "--prompt", "Hi", "--max-new-tokens", "300", "--json"])
    assert jobs.SESSION.status().busy_with is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("studio-work")]


def test_the_doctor_speaks_json_in_one_document(capsys):
    code = main(["doctor", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert code == (1 if any(check["verdict"] == "wrong" for check in checks) else 0)
    assert {"name", "found", "verdict", "fix"} == set(checks[0])
    assert "Hub" in [check["name"] for check in checks]


def test_the_doctor_speaks_plainly_and_ends_with_one_where_something_is_wrong(capsys, monkeypatch):
    from studio import doctor

    checks = [doctor.Check("Good", "is here"), doctor.Check("Bad", "is broken", doctor.Verdict.WRONG, "Mend it.")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(checks))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "is here" in out
    assert "WRONG" in out
    assert "Mend it." in out
    checks.pop()
    assert main(["doctor"]) == 0


# What a checkpoint holds


def test_an_inspection_is_an_aligned_report(pico, capsys):
    assert main(["inspect", str(pico)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == str(pico)
    assert "LlamaForCausalLM, 2 layers, 32 hidden, 4 heads, 2 kv heads" in out
    rows = [line for line in out.splitlines() if line.startswith(("  embedding", "  layers 0–1", "  norm"))]
    assert len(rows) == 3
    assert len({line.index(" weights") for line in rows} | {line.index("F32") for line in rows}) > 1
    assert len({line.index("F32") for line in rows}) == 1
    assert "head is tied" in out
    assert "self_attn" not in out
    assert main(["inspect", str(pico), "--tensors"]) == 0
    assert capsys.readouterr().out.count("self_attn.q_proj.weight") == 2


def test_an_inspection_in_json_is_one_document(capsys):
    assert main(["inspect", "starter", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["architecture"]["layers"]) == ("starter", 4)
    assert sum(tensor["weights"] for tensor in found["tensors"]) == found["parameters"]


def test_an_inspection_that_finds_an_error_ends_with_one(broken, capsys):
    change_json(broken / "config.json", num_hidden_layers=9)
    assert main(["inspect", str(broken)]) == 1
    assert "error    The config says 9 layers" in capsys.readouterr().out
    (broken / "model.safetensors").write_bytes(b"x")
    assert main(["inspect", str(broken)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "model.safetensors is damaged" in err


def test_an_inspection_compares_with_the_architecture_when_asked(broken, capsys):
    change_json(broken / "config.json", intermediate_size=65)
    assert main(["inspect", str(broken)]) == 0
    assert main(["inspect", str(broken), "--against-architecture"]) == 1
    assert "has another shape than the config calls for" in capsys.readouterr().out


def test_words_in_a_file_cannot_steer_the_terminal(broken, capsys):
    red = "\x1b[31m\n\ud800"
    header = {f"{red}.0.{red}": {"dtype": red, "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (broken / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    change_json(broken / "config.json", model_type=red, architectures=[red])
    assert main(["inspect", str(broken), "--tensors"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[31m\\n\\ud800" in out
    assert main(["inspect", str(broken), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["tensors"][0]["dtype"] == red


def test_a_model_of_the_hub_is_inspected_without_being_downloaded(hub_server, capsys):
    hub_server.add("alice/pico", SMALL)
    assert main(["inspect", "alice/pico", "--json"]) in (0, 1)
    out, err = capsys.readouterr()
    assert json.loads(out)["parameters"] == 100
    assert err.splitlines() == ["resolve"]
    assert main(["inspect", "alice/nothing"]) == 1


def test_visitors_of_a_shared_machine_inspect_no_folder_of_it(pico, monkeypatch, capsys):
    monkeypatch.setenv("SPACE_ID", "owner/studio")
    assert main(["inspect", str(pico)]) == 1
    assert "not open to visitors" in capsys.readouterr().err
    assert main(["inspect", "starter"]) == 0
    assert capsys.readouterr().out.startswith("starter\n")


# Loading, measuring, letting go


def test_a_model_is_loaded_measured_and_let_go(capsys):
    assert main(["load", "starter", "--precision", "nf4"]) == 0
    out, err = capsys.readouterr()
    name, weights, sizes = out.splitlines()
    assert name == "starter in nf4"
    assert weights.startswith("3,9")
    assert re.fullmatch(r"measured (\S+ MB), estimated \1, \+0\.00 %", sizes)
    assert "quantize" in err.splitlines()
    assert jobs.SESSION.status().resident is None


def test_a_report_tells_which_layer_became_what_and_why(capsys):
    assert main(["load", "starter", "--precision", "int8", "--report"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")][3:] == ["Dtypes", "Devices", "Modules"]
    assert any(re.fullmatch(r"  Linear8bitLt +\S+ MB +28x +int8", line) for line in lines)
    assert any(line.startswith("  cpu ") for line in lines)


def test_a_report_says_why_a_layer_was_left_alone(tmp_path, capsys):
    save_pico(tmp_path / "untied", tie_word_embeddings=False)
    assert main(["load", str(tmp_path / "untied"), "--precision", "int8", "--report"]) == 0
    assert "the head, which chooses the tokens, loses most" in capsys.readouterr().out


def test_a_model_is_kept_in_a_folder_that_loads(tmp_path, capsys):
    assert main(["load", "starter", "--precision", "nf4", "--keep", str(tmp_path / "kept")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"2\.8\d MB, before 7\.\d\d MB; 178 tensors read back, the same bit for bit", out)
    assert main(["load", str(tmp_path / "kept"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["resident"]["plan"]["precision"], found["kept"]) == ("as stored", None)
    assert found["resident"]["weights"] == found["resident"]["estimated"]
    assert jobs.SESSION.status().resident is None


def test_a_folder_that_is_taken_is_refused_before_anything_is_loaded(pico, capsys):
    assert main(["load", "starter", "--keep", str(pico)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{pico} exists already and is not empty.")
    assert "read" not in err.splitlines()


def test_a_model_that_cannot_be_loaded_ends_with_one(tmp_path, capsys):
    assert main(["load", str(tmp_path / "nowhere"), "--report"]) == 1
    assert capsys.readouterr().out == ""
