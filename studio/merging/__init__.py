"""Base and adapter into one model, and the proof that it is what both were together."""

from __future__ import annotations

from studio.merging.merging import REPORT, merge, read_merged
from studio.merging.plan import AS_BASE, DTYPES, ONTO, Merged, MergePlan
from studio.merging.proof import PROMPTS, Check, Differing, Proof, ProofQuestion
from studio.merging.proof import read as read_proof
from studio.merging.proof import write as write_proof
from studio.merging.proving import prove
from studio.merging.proving_replies import Distance
from studio.merging.rounding import WAYS, Choice, ChoiceQuestion, Choices, measure_choices

__all__ = [
    "AS_BASE",
    "DTYPES",
    "ONTO",
    "PROMPTS",
    "REPORT",
    "WAYS",
    "Check",
    "Choice",
    "ChoiceQuestion",
    "Choices",
    "Differing",
    "Distance",
    "MergePlan",
    "Merged",
    "Proof",
    "ProofQuestion",
    "measure_choices",
    "merge",
    "prove",
    "read_merged",
    "read_proof",
    "write_proof",
]
