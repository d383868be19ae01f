"""What a field declares is what a settings class holds to."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from studio.errors import InputError
from studio.fields import check, limits
from studio.loading import Placement, Quantization


@dataclass(frozen=True)
class Settings:
    share: float = field(default=0.5, metadata={"help": "a share", "min": 0.0, "max": 1.0, "step": 0.1})
    top_k: int = field(default=5, metadata={"help": "a count", "min": 1, "max": 9})
    seed: int | None = field(default=None, metadata={"help": "a number or none", "min": 0, "max": 9})
    way: str = field(default="fast", metadata={"help": "a word", "choices": ("fast", "slow")})
    note: str = field(default="", metadata={"help": "anything"})

    def __post_init__(self):
        check(self)


def test_what_is_declared_may_be_set():
    Settings(share=0, top_k=9, seed=0, way="slow", note="x" * 1000)
    Settings(share=1.0, top_k=1, seed=None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("share", value) for value in (-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None, [0.5])],
        *[("top_k", value) for value in (0, 10, 5.0, True, "5", None, float("nan"))],
        *[("seed", value) for value in (-1, 10, 1.5, "", False)],
        *[("way", value) for value in ("", "FAST", None, 1, ["fast"])],
    ],
)
def test_what_is_not_declared_is_refused_by_the_name_of_its_field(name, value):
    with pytest.raises(InputError) as caught:
        Settings(**{name: value})
    assert caught.value.message == f"{name.replace('_', ' ').capitalize()} is {value!r}."
    assert caught.value.hint.startswith("Choose ")


def test_the_hint_names_the_kind_and_the_bounds():
    hints = []
    for wrong in ({"share": 2.0}, {"top_k": 0}, {"way": "best"}):
        with pytest.raises(InputError) as caught:
            Settings(**wrong)
        hints.append(caught.value.hint)
    assert hints == [
        "Choose a number from 0.0 to 1.0.", "Choose a whole number from 1 to 9.", "Choose one of fast, slow."
    ]  # fmt: skip


def test_limits_are_those_of_the_bounded_fields():
    assert list(limits(Settings)) == ["share", "top_k", "seed"]
    assert limits(Settings)["share"] == {"help": "a share", "min": 0.0, "max": 1.0, "step": 0.1}


@pytest.mark.parametrize(
    "wrong", [{"compute": "bf8"}, {"storage": "int8"}, {"threshold": -1.0}, {"threshold": float("nan")}], ids=str
)
def test_the_settings_of_quantization_hold_to_it(wrong):
    with pytest.raises(InputError, match=next(iter(wrong)).capitalize()):
        Quantization(**wrong)


@pytest.mark.parametrize("settings", [Quantization, Placement])
def test_every_field_of_a_form_says_what_it_is_for(settings):
    assert all(declared.metadata.get("help") for declared in settings.__dataclass_fields__.values())
