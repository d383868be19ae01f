"""What a model and the work on it take on disk: what is fetched, what is merged, what a run keeps."""

from __future__ import annotations

from dataclasses import dataclass

from studio.memory.architecture import Facts
from studio.memory.request import Question
from studio.memory.standing import stand


@dataclass(frozen=True, slots=True)
class DiskNeeds:
    """Bytes on disk. What is not asked for is 0."""

    download: int
    """Still to be fetched."""
    adapter: int
    """The file of the trained adapter."""
    merged: int
    """The folder of base and adapter merged, in 16 bit unless the base is wider."""
    checkpoint: int
    """One checkpoint of a run: what is trained, and the states of the optimizer, so that it can go on."""
    kept: int
    """How many of them a run keeps."""

    @property
    def checkpoints(self) -> int:
        """All that are kept, and the one being written: the old is deleted only when the new one is whole."""
        return self.checkpoint * (self.kept + 1) if self.kept else 0

    @property
    def total(self) -> int:
        """All of it at once."""
        return self.download + self.adapter + self.merged + self.checkpoints


def disk_needs(facts: Facts, question: Question, *, download: int = 0, kept: int = 2) -> DiskNeeds:
    """What downloading, training and merging need on disk; `download` are the bytes still to be fetched.

    Raises Unsupported where nothing can be trained.
    """
    if question.task != "train":
        return DiskNeeds(download, 0, 0, 0, 0)
    standing = stand(facts, question)
    trained = sum(tensor.bytes for tensor in standing.trained)
    full = question.method == "full"
    merged = 0 if full else sum(tensor.parameters * 2 for tensor in facts.tensors)
    return DiskNeeds(download, 0 if full else trained, merged, trained + standing.optimizer, kept)
