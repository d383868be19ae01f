"""Fine-tuning: what a run is to do, how it is done, and what it says meanwhile."""

from __future__ import annotations

from studio.training.adapting import Adapted, adapt, add_tokens, save_adapter
from studio.training.checkpoints import newest_checkpoint
from studio.training.pace import Compute, best_of, computes_in
from studio.training.packing import PackingTest, packs_apart
from studio.training.plan import ALL_LINEAR, METHODS, DataSource, Learnt, Stop, TrainingRun, TrainingSettings
from studio.training.presets import Amount, Preset, amount_of, presets
from studio.training.processes import Together, together
from studio.training.proving import Proof, check_gradients
from studio.training.rehearsing import Rehearsal, rehearse
from studio.training.targets import Group, Targets, targets_of
from studio.training.telling import Began, Evaluated, Sampled, Saved, Stepped, Stopped, Warned
from studio.training.training import TrainingEvent, train

__all__ = [
    "ALL_LINEAR",
    "METHODS",
    "Adapted",
    "Amount",
    "Began",
    "Compute",
    "DataSource",
    "Evaluated",
    "Group",
    "Learnt",
    "PackingTest",
    "Preset",
    "Proof",
    "Rehearsal",
    "Sampled",
    "Saved",
    "Stepped",
    "Stop",
    "Stopped",
    "Targets",
    "Together",
    "TrainingEvent",
    "TrainingRun",
    "TrainingSettings",
    "Warned",
    "adapt",
    "add_tokens",
    "amount_of",
    "best_of",
    "check_gradients",
    "computes_in",
    "newest_checkpoint",
    "packs_apart",
    "presets",
    "rehearse",
    "save_adapter",
    "targets_of",
    "together",
    "train",
]
