"""Loading in every precision and place: right numbers, or a refusal in words, and nothing left behind."""

from __future__ import annotations

import ctypes
import gc
import json
import shutil
import struct
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from pico import change_json, load_pico, save_pico
from safetensors.torch import load_file, save_file

from studio import compute, memory
from studio.compute import Room
from studio.errors import Damaged, DoesNotFit, InputError, Unsupported
from studio.events import Finished, Phase
from studio.heartbeat import heartbeat
from studio.loading import LoadPlan, Placement, Quantization, load, outlook
from studio.loading import reading as reading_module
from studio.models import ModelRef, Precision
from studio.session import Session

DISK = Placement(limits="cpu=0.2 MB", disk=True)


def plan_of(folder, **fields):
    return LoadPlan(**{"model": ModelRef("folder", str(folder)), **fields})


def logits(loaded, ids=(5, 6, 7, 100)):
    with torch.no_grad():
        return loaded.model(torch.tensor([ids])).logits


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A Llama of four layers whose matrices fit every format; 659 kB in fp32."""
    return save_pico(tmp_path_factory.mktemp("whole"), hidden_size=64, intermediate_size=128, num_hidden_layers=4)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it for the test to break."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture
def shards(folder):
    """The same in eight files and an index."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


def keep_as(folder, model, source):
    """Save a model that is in memory, with the tokenizer of the folder that it came from."""
    model.save_pretrained(folder)
    for file in source.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def rewrite(file, change):
    """Change the tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def set_dtype(file, name, dtype):
    """Let the header of a safetensors file say another dtype of a tensor."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header[name]["dtype"] = dtype
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


# Modules left alone


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_modules_that_are_named_are_kept_and_the_head_always_is(tmp_path, precision):
    folder = save_pico(tmp_path / "untied", tie_word_embeddings=False)
    wish = Quantization(keep="q_proj, model.layers.1.mlp, model.layers.1.mlp.up_proj")
    modules = {m.name: m for m in load_pico(folder, precision=Precision(precision), quantization=wish).resident.modules}
    kept = {name for name, module in modules.items() if module.kind == "Linear"}
    assert kept == {
        "lm_head",
        *(f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)),
        *(f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")),
    }
    assert {modules[name].note for name in kept - {"lm_head"}} == {"named among those to keep"}
    assert "head" in modules["lm_head"].note
    assert {module.dtype for module in modules.values() if module.name not in kept and "proj" in module.name} == {
        precision
    }


def test_the_note_of_a_tied_head_says_so(whole):
    ahead = outlook(plan_of(whole, precision=Precision.NF4), whole)
    # Its bytes are those of the embedding, so it is in the notes and not in the list.
    assert "lm_head" not in {module.name for module in ahead.modules}
    assert [block.beside for block in ahead.blocks if block.name == "lm_head"] == ["model.embed_tokens"]


@pytest.mark.parametrize("name", ["[", "q_proj|k_proj", ".*", "a b", "model..layers", "q_proj."])
def test_what_is_no_name_of_a_module_is_refused(name):
    with pytest.raises(InputError, match="is not the name of a module"):
        Quantization(keep=f"v_proj, {name}")


# Quantized before


@pytest.mark.parametrize(
    ("precision", "wish"),
    [
        *[("nf4", {}), ("nf4", {"double_quant": False}), ("nf4", {"keep": "q_proj"})],
        *[("fp4", {"storage": "bf16"}), ("int8", {})],
    ],
    ids=str,
)
def test_what_was_saved_quantized_comes_back_bit_for_bit(whole, tmp_path, precision, wish):
    before = load_pico(whole, precision=Precision(precision), quantization=Quantization(**wish))
    saved = keep_as(tmp_path / "saved", before.model, whole)
    for asked in (None, Precision.STORED):
        again = load_pico(saved, precision=asked)
        assert torch.equal(logits(again), logits(before))
        assert again.resident.plan.precision is Precision.STORED
        assert again.resident.estimated == again.resident.weights == before.resident.weights
        assert again.resident.parameters == before.resident.parameters
        assert memory.by_dtype(again.resident.modules) == memory.by_dtype(before.resident.modules)
    with pytest.raises(Unsupported, match=r"quantized already \(bitsandbytes\), so it cannot be loaded in bf16"):
        load_pico(saved, precision=Precision.BF16)
    ahead = outlook(
        plan_of(saved, placement=DISK if precision == "int8" else Placement(limits="cpu=90kB", disk=True)), saved
    )
    assert ahead.misfit is None or "cannot lie on the disk" in ahead.misfit.message


def test_what_was_not_quantized_is_counted_in_the_format_it_was_saved_in(whole, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32, quantization_config=how)
    resident = load_pico(keep_as(tmp_path / "fp32", model, whole), precision=None).resident
    assert resident.estimated == resident.weights
    assert {m.dtype for m in resident.modules} == {"float32", "nf4"}


def test_as_stored_is_what_suits_the_machine_where_nothing_was_quantized(whole):
    resident = load_pico(whole, precision=Precision.STORED).resident
    assert resident.plan.precision is load_pico(whole, precision=None).resident.plan.precision
    assert resident.plan.precision is not Precision.STORED


@pytest.mark.parametrize(
    ("method", "words"),
    [("gptq", "optimum"), ("awq", "gptqmodel"), ("compressed-tensors", "compressed-tensors"), ("torchao", "torchao")],
)
def test_a_method_without_its_package_is_refused_and_the_package_named(folder, method, words):
    change_json(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(Unsupported, match=f"needs more than is installed: .*{words}"):
        load_pico(folder, precision=None)


@pytest.mark.parametrize("how", [{"quant_method": "newest"}, {"bits": 4}, {"quant_method": ["gptq"]}], ids=str)
def test_a_method_that_nobody_knows_is_refused_and_not_ignored(folder, how):
    change_json(folder / "config.json", quantization_config=how)
    with pytest.raises(Unsupported, match="does not know the quantization"):
        load_pico(folder, precision=None)


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_a_config_that_only_claims_to_be_quantized_is_found_out(folder, bits):
    change_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", bits: True})
    with pytest.raises(Damaged, match="The config says that the weights are quantized"):
        load_pico(folder, precision=None)


@pytest.mark.skipif("compute.machine().device == 'cuda'", reason="a GPU keeps fp8 as it is")
def test_fp8_is_unpacked_where_there_is_no_gpu_and_counted_so(folder):
    file, size = folder / "model.safetensors", 16
    plain = load_file(file)

    def pack(tensors):
        for name in [name for name in tensors if "proj" in name]:
            rows, columns = tensors[name].shape
            tiles = tensors[name].reshape(rows // size, size, columns // size, size)
            scale = tiles.abs().amax((1, 3), keepdim=True) / 448
            packed = (tiles / scale).to(torch.float8_e4m3fn)
            plain[name] = (packed.float() * scale).reshape(rows, columns)
            tensors[name] = packed.reshape(rows, columns)
            tensors[f"{name}_scale_inv"] = scale.reshape(rows // size, columns // size)

    rewrite(file, pack)
    change_json(folder / "config.json", quantization_config={"quant_method": "fp8", "weight_block_size": [size, size]})
    loaded = load_pico(folder, precision=None)
    assert loaded.resident.estimated == loaded.resident.weights
    found = loaded.model.state_dict()
    assert all(torch.equal(found[name].float(), plain[name]) for name in plain)


# Attention


def test_every_way_of_attention_says_the_same(whole):
    eager, sdpa = (load_pico(whole, attention=way) for way in ("eager", "sdpa"))
    assert (eager.model.config._attn_implementation, sdpa.model.config._attn_implementation) == ("eager", "sdpa")
    assert torch.allclose(logits(eager), logits(sdpa), atol=1e-4)


def test_a_kernel_that_is_not_installed_is_refused(whole):
    with pytest.raises(Unsupported, match="FlashAttention2"):
        load_pico(whole, attention="flash_attention_2")
    with pytest.raises(InputError, match="'fastest' is no attention"):
        plan_of(whole, attention="fastest")


# Places


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("limit", ["0.3 MB", "75 kB"])
def test_what_is_read_from_the_disk_computes_the_same(tmp_path, precision, tied, limit):
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4 if precision == "fp32" else 8}
    folder = save_pico(tmp_path / "model", **shape, tie_word_embeddings=tied)
    if (precision, limit) == (Precision.FP32, "75 kB"):
        with pytest.raises(DoesNotFit, match="largest part of the model"):
            load_pico(folder, precision=precision, placement=Placement(limits=f"cpu={limit}", disk=True))
        return
    plain = load_pico(folder, precision=precision)
    split = load_pico(folder, precision=precision, placement=Placement(limits=f"cpu={limit}", disk=True))
    assert torch.equal(logits(split), logits(plain))
    assert split.resident.estimated == split.resident.weights == plain.resident.weights
    assert split.resident.parameters == plain.resident.parameters
    devices = memory.by_device(split.resident.modules)
    assert devices["disk"] > 0
    assert devices["cpu"] <= split.resident.plan.placement.limit_of["cpu"]
    assert sum(devices.values()) == split.resident.weights


def test_quantized_weights_cannot_lie_on_the_disk(whole):
    for precision in (Precision.NF4, Precision.INT8):
        with pytest.raises(DoesNotFit, match=f"{precision} weights .* cannot lie on the disk") as caught:
            load_pico(whole, precision=precision, placement=Placement(limits="cpu=80 kB", disk=True))
        assert "bf16, which can be read from the disk" in caught.value.hint


def test_an_architecture_that_is_put_together_while_it_is_read_is_not_left_on_the_disk(folder):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=261, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    with pytest.raises(Unsupported, match="none can stay on the disk"):
        load_pico(folder, placement=Placement(limits="cpu=0.4 MB", disk=True))


def give(monkeypatch, free):
    monkeypatch.setattr(compute, "rooms", lambda: [Room("cpu", 300_000_000 + free)])


def test_what_would_fit_is_named_and_then_fits(whole, monkeypatch):
    sizes = dict(outlook(plan_of(whole), whole, compare=True).alternatives)
    for wanted, better in (("fp32", "bf16"), ("bf16", "int8"), ("int8", "nf4"), ("bf16", "nf4")):
        give(monkeypatch, sizes[Precision(better)])
        with pytest.raises(DoesNotFit) as caught:
            load_pico(whole, precision=Precision(wanted))
        assert caught.value.hint.startswith(f"Load it in {better}: ")
        assert load_pico(whole, precision=Precision(better)).resident.weights == sizes[Precision(better)]
    give(monkeypatch, sizes[Precision.NF4] - 1)
    with pytest.raises(DoesNotFit) as caught:
        load_pico(whole, precision=Precision.BF16)
    assert "Load it in" not in caught.value.hint


def test_a_limit_counts_when_what_would_fit_is_named(whole):
    with pytest.raises(DoesNotFit) as caught:
        load_pico(whole, placement=Placement(limits="cpu=10 kB"))
    assert "Load it in" not in caught.value.hint
    with pytest.raises(DoesNotFit) as caught:
        load_pico(whole, placement=Placement(limits="cpu=0.2 MB"))
    assert caught.value.hint.startswith("Load it in int8: ")


def test_a_model_that_fits_only_with_the_disk_is_told_so_and_then_works(whole, monkeypatch):
    give(monkeypatch, 120_000)
    with pytest.raises(DoesNotFit) as caught:
        load_pico(whole, precision=Precision.BF16)
    assert "let the rest be read from the disk" in caught.value.hint
    assert logits(load_pico(whole, precision=Precision.BF16, placement=Placement(disk=True))).isfinite().all()


# Bad input

NAME = "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_no_number_is_found_in_every_precision(folder, value, dtype):
    def spoil(tensors):
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(dtype)
        tensors[NAME][3, 5] = value

    rewrite(folder / "model.safetensors", spoil)
    plain, odd = Quantization(double_quant=False), Quantization(storage="bf16")
    ways = [(Precision.FP32, {}), (Precision.BF16, {}), (Precision.INT8, {}), (Precision.NF4, {})]
    ways += [(Precision.FP4, {"quantization": plain}), (Precision.NF4, {"quantization": odd})]
    for precision, wish in [*ways, (Precision.FP32, {"placement": Placement(limits="cpu=0.3 MB", disk=True)})]:
        with pytest.raises(Damaged, match=r"^model\.layers\.3\.mlp\.up_proj\.weight holds values that are not numbers"):
            load_pico(folder, precision=precision, **wish)


def test_large_weights_are_numbers(folder):
    rewrite(folder / "model.safetensors", lambda tensors: tensors["model.norm.weight"].fill_(40000.0))
    assert load_pico(folder, precision=Precision.FP16).resident.parameters > 0


@pytest.mark.parametrize(
    ("dtype", "words"),
    [("I32", "as I32"), ("U32", "as U32"), ("F16", "cannot be read"), ("F64", "cannot be read"),
     ("F99", "cannot be read|F99"), ("BOOL", "as BOOL"), (None, "header cannot be read"), (7, "header cannot be read")],
)  # fmt: skip
def test_a_wrong_dtype_in_a_header_is_found(folder, dtype, words):
    set_dtype(folder / "model.safetensors", NAME, dtype)
    for precision in (Precision.FP32, Precision.NF4):
        with pytest.raises(Damaged, match=words):
            load_pico(folder, precision=precision)


def test_a_header_longer_than_any_file_is_found_at_once(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}" * 50)
    with pytest.raises(Damaged, match="do not begin with a safetensors header"):
        load_pico(folder)


def test_a_missing_shard_is_named(shards):
    (shards / "model-00003-of-00008.safetensors").unlink()
    with pytest.raises(
        Damaged, match=r"1 of 8 weight files are missing, the first is model-00003-of-00008\.safetensors"
    ):
        load_pico(shards)


@pytest.mark.parametrize("place", [Placement(), Placement(limits="cpu=0.3 MB", disk=True)], ids=["cpu", "disk"])
@pytest.mark.parametrize("fault", ["nothing", "elsewhere", "gone"])
def test_an_index_that_points_to_nothing_is_found(shards, fault, place):
    index = shards / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    match fault:
        case "nothing":
            names["model.layers.9.mlp.up_proj.weight"] = names[NAME]
        case "elsewhere":
            names[NAME] = next(file for file in sorted(names.values()) if file != names[NAME])
        case "gone":
            rewrite(shards / names[NAME], lambda tensors: tensors.pop(NAME))
    change_json(index, weight_map=names)
    with pytest.raises(Damaged, match=r"The index says that .* and it is not"):
        load_pico(shards, placement=place)


@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.FP16])
def test_a_config_with_more_layers_than_the_file_is_refused(folder, precision):
    change_json(folder / "config.json", num_hidden_layers=5)
    with pytest.raises(Damaged, match=r"^9 weights that the config asks for .* model\.layers\.4\."):
        load_pico(folder, precision=precision)


def test_a_config_with_more_layers_is_refused_from_the_disk_too(folder):
    change_json(folder / "config.json", num_hidden_layers=5)
    with pytest.raises(Damaged, match=r"^9 weights that the config asks for .* model\.layers\.4\."):
        load_pico(folder, placement=Placement(limits="cpu=0.3 MB", disk=True))


def test_weights_of_another_architecture_are_refused(folder, tmp_path):
    for model_type in ("qwen2", "gpt2"):
        change_json(folder / "config.json", model_type=model_type)
        with pytest.raises(Damaged, match="weights that the config asks for are not in the files"):
            load_pico(folder)
    biased = save_pico(tmp_path / "biased", attention_bias=True)
    change_json(biased / "config.json", attention_bias=False)
    with pytest.raises(Damaged, match=r"holds? model\.layers\.0\.self_attn\.k_proj\.bias, which .* no place for"):
        load_pico(biased)


# Giving up


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A Llama of 62 MB in fp32."""
    return save_pico(
        tmp_path_factory.mktemp("large"), hidden_size=512, intermediate_size=1408, num_hidden_layers=5,
        num_attention_heads=8,
    )  # fmt: skip


class _Mallinfo(ctypes.Structure):
    """What mallinfo2 of glibc returns: ten counts, of which the fifth is bytes mapped and the eighth bytes in use."""

    _fields_ = tuple((f"count_{number}", ctypes.c_size_t) for number in range(1, 11))


def bytes_in_use():
    """What was allocated and not freed. The memory of the process says less: glibc keeps up to 50 MB that are free."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("only glibc from 2.33 on tells what is in use")
    libc.mallinfo2.restype = _Mallinfo
    told = libc.mallinfo2()
    return told.count_5 + told.count_8


def large_tensors():
    """Every tensor of more than 100,000 numbers, by its identity."""
    found = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))
    return {id(tensor) for tensor in found if tensor.numel() > 100_000}


def give_up(folder, precision, phase):
    """Close a load when more than half of a phase is done. On a busy machine it may be over before that is heard."""
    for _ in range(10):
        if gave_up(folder, precision, phase):
            compute.release()
            return
    pytest.fail("it was over before it could be given up")


def gave_up(folder, precision, phase):
    """Whether that was in time."""
    with closing(load(plan_of(folder, precision=precision), folder)) as work:
        for event in work:
            if isinstance(event, Finished):
                return False
            if event.phase is phase and event.total and event.done > event.total // 2:
                break
        return any(thread.name.startswith("studio-work") for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("precision", "phase"),
    [
        *[("fp32", Phase.READ), ("bf16", Phase.READ), ("bf16", Phase.CHECK)],
        *[("nf4", Phase.QUANTIZE), ("int8", Phase.QUANTIZE)],
    ],
)
def test_a_load_that_is_given_up_gives_everything_back(large, monkeypatch, precision, phase):
    load_pico(large, precision=Precision(precision))  # what is imported and kept for good
    files = sorted(path.name for path in large.iterdir())
    often = partial(heartbeat, every=0.0005)
    monkeypatch.setattr(reading_module, "heartbeat", lambda work, tell, every: often(work, tell))
    give_up(large, Precision(precision), phase)  # what the first of its kind keeps for good
    before, others = bytes_in_use(), large_tensors()
    for _ in range(4):
        give_up(large, Precision(precision), phase)
        assert large_tensors() <= others
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("studio-work")]
    # Half of the model in 4 bit is 4 MB, so loads that stay would be 16 MB; nothing that stays was seen to be 0.1 MB.
    assert bytes_in_use() - before < 2_000_000
    assert sorted(path.name for path in large.iterdir()) == files


def test_a_session_whose_load_was_given_up_goes_on(large, whole):
    session = Session()
    plan = plan_of(large, precision=Precision.NF4)

    def borrowing():
        with session.borrow(plan, large, purpose="testing") as loan:
            yield from loan

    work = borrowing()
    while next(work).total is None:
        """Until it quantizes."""
    work.close()
    assert session.status().resident is None
    assert session.status().busy_with is None
    with session.borrow(plan_of(whole), whole, purpose="testing") as loan:
        assert finish(loan).resident.parameters > 0


def finish(loan):
    while True:
        try:
            next(loan)
        except StopIteration as end:
            return end.value


def test_plans_that_settle_to_the_same_are_the_same_model(whole):
    loads = []

    def counting(plan, folder):
        loads.append(plan)
        return (yield from load(plan, folder))

    session = Session(counting)
    decided = outlook(plan_of(whole), whole).plan.precision
    for precision in (None, decided, Precision.STORED, None):
        with session.borrow(plan_of(whole, precision=precision), whole, purpose="testing") as loan:
            assert finish(loan).resident.plan.precision is decided
    assert len(loads) == 1
    gc.collect()


# The peak

_PEAK = """
import sys, threading
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from pico import load_pico
from studio import compute
from studio.models import Precision

def held():
    # What is only mapped from a file the system takes back when it needs the room.
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) * 1024

def watch():
    while not over.wait(0.002):
        seen.append(held())

for precision in ("bf16", "int8", "nf4"):
    load_pico(Path(sys.argv[1]).parent / "small", precision=Precision(precision))
    compute.release()
    before, seen, over = held(), [0], threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    loaded = load_pico(Path(sys.argv[1]), precision=Precision(precision))
    over.set()
    watcher.join()
    print(precision, max(*seen, held()) - before, loaded.resident.weights)
    del loaded
"""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A Llama of 120 MB in fp32, in files of 20 MB, beside a small one to warm up with."""
    from transformers import AutoModelForCausalLM

    base = tmp_path_factory.mktemp("peak")
    save_pico(base / "small")
    folder = save_pico(
        base / "sharded", hidden_size=768, intermediate_size=2048, num_hidden_layers=5, num_attention_heads=8,
        num_key_value_heads=4,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20MB")
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what a process holds")
def test_loading_never_holds_more_than_the_model_and_a_file(sharded):
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, sharded, here, here.parent],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    sizes = [file.stat().st_size for file in sharded.glob("*.safetensors")]
    assert sum(sizes) > 110_000_000
    assert max(sizes) < 21_000_000
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [precision for precision, _, _ in lines] == ["bf16", "int8", "nf4"]
    for precision, peak, weights in lines:
        assert int(peak) < int(weights) + max(sizes) + 50_000_000, f"{precision}: {peak} for {weights}"
        assert int(peak) > int(weights)


def test_a_name_to_keep_that_no_module_has_is_refused(pico):
    plan = LoadPlan(ModelRef("folder", str(pico)), Precision.NF4, quantization=Quantization(keep="q_proj, q_porj"))
    with pytest.raises(InputError, match="No module is called 'q_porj'") as caught:
        outlook(plan, pico)
    assert "q_proj" in caught.value.hint
