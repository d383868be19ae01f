"""What may be published and what not, and that a card says what the record says and nothing else."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
from huggingface_hub import ModelCard
from loopback_hub.samples import ALICE
from pico import change_json, save_adapter
from run_steps import made as made_run
from run_steps import worked_off as run_off
from upload_steps import base_on_hub

from studio import advice, hub, publishing, runs
from studio.errors import Damaged, HubError, InputError, PickleOnly, Unsupported
from studio.evaluation import Meter, Score, Standing
from studio.jobs.publishing import check_card, offer
from studio.jobs.weighing import FILE
from studio.publishing import Kind, check_licence, look
from studio.runs.document import put
from studio.runs.plain import as_plain


@pytest.fixture
def adapter(pico, tmp_path):
    return save_adapter(tmp_path / "adapter", pico)


def standing(good: int, loss: float) -> Standing:
    exact = Score("exact match", "learnt", good, 20)
    return Standing(20, loss, 400, exact, (), 12.5 + good, 100, (), 20, 20, 64, 1.0)


def offered(folder, **wishes):
    return offer(folder, "alice/new", **{"token": False, **wishes})


def test_every_kind_is_known_by_its_files(pico, adapter, tmp_path):
    assert look(adapter).kind is Kind.ADAPTER
    assert look(pico).kind is Kind.MODEL
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(pico / name, tokenizer / name)
    assert look(tokenizer).kind is Kind.TOKENIZER
    assert offered(tokenizer).card.count("AutoTokenizer.from_pretrained") == 1


def test_what_must_not_leave_is_refused(pico, adapter, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="is empty"):
        look(empty)
    with pytest.raises(InputError, match="no folder"):
        look(tmp_path / "nowhere")
    (empty / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(PickleOnly, match="pickles"):
        look(empty)
    with pytest.raises(InputError, match="not open to visitors"):
        look(adapter, inside=tmp_path / "workspace")
    # Neither a pickle beside sound weights, nor a link to elsewhere, nor weights that are none.
    for name, made, kind, says in (
        ("optimizer.pt", lambda file: file.write_bytes(b"x"), InputError, "is a pickle"),
        ("notes.txt", lambda file: file.symlink_to(pico / "config.json"), InputError, "is a link"),
        ("more.safetensors", lambda file: file.write_bytes(b"\x80\x04"), Damaged, r"more\.safetensors"),
    ):
        made(adapter / name)
        with pytest.raises(kind, match=says):
            offered(adapter)
        (adapter / name).unlink()
    assert offered(adapter)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("notes.json", f'{{"token": "{ALICE}"}}', "a token of Hugging Face"),
        ("notes.txt", "ghp_" + "a1" * 18, "a token of GitHub"),
        ("notes.txt", "AKIA" + "ABCDEFGH12345678", "a key of AWS"),
        ("notes.txt", "-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("notes.txt", "see https://alice:secret1@example.org/x", "password"),
        (".env", "A=b", "secrets are kept"),
        ("server.pem", "x", "secrets are kept"),
    ],
)
def test_a_secret_in_a_file_is_found_and_not_repeated(adapter, name, content, what):
    (adapter / name).write_text(content)
    with pytest.raises(InputError, match=what) as told:
        offered(adapter)
    assert name in str(told.value)
    assert content not in str(told.value)


def test_a_secret_between_two_blocks_and_in_a_header_is_found(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("studio.publishing.secrets._BLOCK", 100)
    (adapter / "notes.txt").write_text("x " * 45 + ALICE + " x" * 45)
    with pytest.raises(InputError, match="Hugging Face"):
        offered(adapter)
    (adapter / "notes.txt").unlink()
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"made by": ALICE})
    with pytest.raises(InputError, match="Hugging Face"):
        offered(adapter)


def test_a_merged_model_is_published_with_a_passed_proof_alone(pico, tmp_path):
    merged = shutil.copytree(pico, tmp_path / "merged")
    (merged / "merge.json").write_text(json.dumps({"base": "alice/pico"}))
    with pytest.raises(Unsupported, match="without a proof"):
        look(merged)
    from studio.merging import Check, Proof, write_proof
    from studio.merging.proof import fingerprint
    from studio.models import Precision

    def proof(state):
        checks = (Check("scores", state, "They are what they were."),)
        passed = state == "passed"
        return Proof(passed, "All of it.", True, Precision.FP32, checks, fingerprint(merged), (("torch", "2"),), 1.0)

    write_proof(proof("failed"), merged)
    with pytest.raises(Unsupported, match="not passed its proof: scores"):
        look(merged)
    write_proof(proof("passed"), merged)
    found = offered(merged)
    assert "| scores | passed | They are what they were. |" in found.card
    assert "proof.json" in [file.path for file in found.contents.files]
    change_json(merged / "config.json", rope_theta=5.0)
    with pytest.raises(Damaged, match="not those that were proven"):
        look(merged)


def test_the_licence_of_the_base_holds(hub_server, pico, adapter):
    base_on_hub(hub_server, pico)  # cc-by-sa-4.0
    found = offered(adapter, base="alice/pico")
    assert (found.licence, found.record.base.languages) == ("cc-by-sa-4.0", ("en",))
    with pytest.raises(InputError, match="cannot be published under mit"):
        offered(adapter, base="alice/pico", licence="mit")
    # Nor by way of the card.
    with pytest.raises(InputError, match="cannot be published under apache"):
        check_card(found.card.replace("cc-by-sa-4.0", "apache-2.0"), found, token=False)
    check_card(found.card, found, token=ALICE)
    with pytest.raises(InputError, match="Hugging Face"):
        check_card(f"{found.card}\n{ALICE}", found, token=ALICE)
    assert check_licence("apache-2.0", "mit") == "mit"
    assert check_licence("cc0-1.0", "llama3") == "llama3"
    assert check_licence(None, "") == "unknown"
    for base, chosen in (
        ("mit", "cc0-1.0"),
        ("llama3", "apache-2.0"),
        ("gpl-3.0", "mit"),
        ("cc-by-nc-4.0", "cc-by-4.0"),
    ):
        with pytest.raises(InputError, match=chosen):
            check_licence(base, chosen)
    with pytest.raises(InputError, match="no licence that the Hub knows"):
        offered(adapter, licence="my-own")


def test_a_base_is_a_name_on_the_hub_and_never_a_path(hub_server, pico, adapter):
    found = offered(adapter)  # its config names the folder of the base
    data = ModelCard(found.card).data
    assert (data.base_model, data.license) == (None, "unknown")
    assert str(pico) not in found.card + str([file.text for file in found.contents.files])
    assert "has no name on the Hub" in found.card
    assert f'from_pretrained("./{pico.name}")' in found.card
    with pytest.raises(InputError, match="not a place of this machine"):
        offered(adapter, base=str(pico))
    base_on_hub(hub_server, pico)
    hub_server.fault("/resolve/", status=500)
    try:
        assert any("could not be looked up" in words for words in offered(adapter, base="alice/pico").cautions)
    except HubError:
        pytest.fail("a Hub that fails is a caution")


def test_every_figure_of_a_card_is_one_of_the_record(pico, tmp_path):
    run = made_run(pico, tmp_path, most_steps=4, evaluate_every=2)
    events = run_off(run)
    folder = runs.of(run).folder
    learnt = events[-1].result
    data = ModelCard(offered(folder / "adapter").card).data
    assert [(each.metric_type, each.metric_value) for each in data.eval_results] == [
        ("loss", round(learnt.held_out_loss, 6))
    ]
    for good, loss in ((7, 1.25), (19, 0.5)):
        put(folder / FILE, json.dumps(as_plain(Meter(standing(1, 3.5), standing(good, loss)))))
        card = offered(folder / "adapter").card
        found = {each.metric_name: each.metric_value for each in ModelCard(card).data.eval_results}
        assert found == {"Held-out loss": loss, "Exact match": good / 20, "Perplexity of a general text": 12.5 + good}
        assert f"| Exact match | rows.jsonl | 5.0 % | {100 * good / 20:.1f} % | 20 |" in card
        assert f"| Steps | 4, {learnt.tokens:,} tokens |" in card
        assert "| `rank` | 4 |" in card
        assert hub.card_faults(card) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("license: mit", "license: my-own"), "license is 'my-own'"),
        (("license: mit", "license: other"), "license_name"),
        (("base_model: a/b", "base_model: /data/model"), "no name on the Hub"),
        (("base_model_relation: adapter", "base_model_relation: child"), "base_model_relation"),
        (("- en", "- English"), "no code such as en"),
        (("license: mit", "license: [mit"), "no YAML"),
        (("---\nbase_model", "base_model"), "does not begin with metadata"),
        (("# Hello", ""), "nothing below"),
        (("value: 0.5", "valued: 0.5"), "model-index"),
    ],
)
def test_a_card_that_the_hub_would_not_take_is_told_without_asking_it(change, says):
    card = hub.compose_card(
        {"license": "mit", "base_model": "a/b", "base_model_relation": "adapter", "language": ["en"]},
        (hub.CardResult("rows", "loss", "Loss", 0.5),),
        "Hello",
        "# Hello",
    )
    assert hub.card_faults(card) == ()
    assert change[0] in card
    assert any(says in fault for fault in hub.card_faults(card.replace(*change))), hub.card_faults(
        card.replace(*change)
    )


def test_foreign_text_stays_text_in_a_card():
    sample = publishing.Sample("*bold* <b> [x](y)", "```\nfence", "a | b")
    record = publishing.Record("a `name` | of", samples=(sample,), settings=(("x", "a | b\nc"),))
    card = publishing.draw(Kind.RUN, record, licence="mit", repo="a/b")
    assert "# a \\`name\\` \\| of" in card
    assert "**\\*bold\\* \\<b\\> \\[x\\](y)**" in card
    assert "````text\n```\nfence\n````" in card
    assert "| `x` | a \\| b c |" in card


def test_advice_on_publishing_names_a_missing_template(pico, tmp_path):
    bare = shutil.copytree(pico, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    found = offered(bare)
    assert [rule.id for rule in advice.on_publishing(found.thing, found.contents)] == ["template-mismatch"]
    whole = offered(pico)
    assert advice.on_publishing(whole.thing, whole.contents) == []
    assert [rule.id for rule in advice.on_card()] == ["model-card-api"]
