"""What can be made of adapters and into one, by names: seen through, made smaller, combined, extracted, converted."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from studio import adapters, hub, keeping
from studio.adapters import Combined, CombineOutlook, CombinePlan, Compressed, Converted, Extracted, ExtractPlan, XRay
from studio.errors import InputError
from studio.events import Finished, Progress
from studio.jobs.fetching import fetch
from studio.jobs.matching import Matched
from studio.jobs.merging import adapter_folder
from studio.loading import LoadPlan
from studio.merges.adapters import named
from studio.models import ModelRef
from studio.settings import Settings

WHAT = "adapter"
"""What is kept, as `keeping.place` calls it."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """An adapter, another one by its name, and how they are to be added up: the fields of a CombinePlan."""

    first: Path
    second: str
    """A run, a folder, or a name of the Hub."""
    weights: tuple[float, float]
    kind: str = "cat"
    rank: int = 0
    density: float = 0.5


def see_through(matched: Matched, *, token: hub.Token) -> Generator[Progress | Finished[XRay], None, None]:
    """Look at every update of an adapter beside its base, which is downloaded first where it is on the Hub.

    The last event is `Finished(XRay)`. Raises InputError for visitors, without a base and where the two do not fit.
    """
    _workspace()
    if matched.base is None or (matched.fit is not None and not matched.fits):
        raise InputError(
            matched.why or "There is no base to look at.", matched.hint or "Write the base model beside the adapter."
        )
    base = yield from fetch(LoadPlan(matched.base), token=token)
    yield from adapters.xray(Path(matched.adapter.folder), base)


def make_smaller(adapter: Path, rank: int, name: str) -> Generator[Progress | Finished[Compressed], None, None]:
    """Write an adapter at a smaller rank into the folder `adapters/<name>` of the workspace.

    The last event is `Finished(Compressed)`. Raises InputError for visitors and for a name that is none or taken.
    """
    yield from adapters.compress(adapter, rank, keeping.place(_workspace(), name, WHAT))


def mixture_outlook(
    mixture: Mixture, *, token: hub.Token
) -> Generator[Progress | Finished[CombineOutlook], None, None]:
    """What a mixture would be, told from headers; the last event is `Finished(CombineOutlook)`."""
    # The target is not looked at: what it would be has no name yet.
    plan = yield from _plan(mixture, _workspace() / f"{WHAT}s" / "mixture", token)
    yield Finished(adapters.combine_outlook(plan))


def mix(mixture: Mixture, name: str, *, token: hub.Token) -> Generator[Progress | Finished[Combined], None, None]:
    """Write two adapters as one into the folder `adapters/<name>` of the workspace.

    The last event is `Finished(Combined)`. Raises InputError for visitors and for a name that is none or taken.
    """
    target = keeping.place(_workspace(), name, WHAT)
    plan = yield from _plan(mixture, target, token)
    yield from adapters.combine(plan)


def take_out(
    base: str, tuned: str, rank: int, name: str, *, token: hub.Token
) -> Generator[Progress | Finished[Extracted], None, None]:
    """Write what a full fine-tuning changed as an adapter into the folder `adapters/<name>` of the workspace.

    Both models are names, and are downloaded first where they are on the Hub. The last event is `Finished(Extracted)`.
    Raises InputError for visitors, for a name that is none or taken, and where the two do not belong together.
    """
    target = keeping.place(_workspace(), name, WHAT)
    refs = ModelRef.parse(base), ModelRef.parse(tuned)
    before = yield from fetch(LoadPlan(refs[0]), token=token)
    after = yield from fetch(LoadPlan(refs[1]), token=token)
    yield from adapters.extract(ExtractPlan(before, after, target, rank, str(refs[0])))


def bone_to_miss(adapter: str, name: str, *, token: hub.Token) -> Generator[Progress | Finished[Converted], None, None]:
    """Write an adapter of the type Bone as one of the type MiSS into the folder `adapters/<name>` of the workspace.

    The last event is `Finished(Converted)`. Raises InputError for visitors, for a name that is none or taken, and where
    it is no adapter of that type.
    """
    target = keeping.place(_workspace(), name, WHAT)
    ref, _ = named(adapter)
    folder = yield from adapter_folder(ref, token=token)
    yield from adapters.to_miss(folder, target)


def _plan(mixture: Mixture, target: Path, token: hub.Token) -> Generator[Progress, None, CombinePlan]:
    ref, _ = named(mixture.second)
    second = yield from adapter_folder(ref, token=token)
    both = (mixture.first, second)
    return CombinePlan(both, mixture.weights, target, mixture.kind, mixture.rank, mixture.density)


def _workspace() -> Path:
    settings = Settings.from_env()
    if settings.shared:
        raise InputError("Visitors cannot rework adapters here.", "Duplicate the Space, or run the studio yourself.")
    return settings.workspace
