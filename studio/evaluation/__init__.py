"""What a model learnt and what it forgot: one look before, one after, and what lies between them."""

from __future__ import annotations

from studio.evaluation.checks import Check, Kind, Question, read_checks
from studio.evaluation.looking import Exam, look
from studio.evaluation.standing import EXACT, Change, Meter, Said, Score, Standing

__all__ = [
    "EXACT",
    "Change",
    "Check",
    "Exam",
    "Kind",
    "Meter",
    "Question",
    "Said",
    "Score",
    "Standing",
    "look",
    "read_checks",
]
