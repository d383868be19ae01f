"""Batches of similar length: rows are padded on the right, and nothing but the labels says what is learned."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch

IGNORED = -100
Row = tuple[list[int], list[int]]
"""Token ids and labels of one row."""


def batches(rows: list[Row], tokens: int, rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Group rows of similar length into batches of at most so many tokens, in random order."""
    # A little noise in the length keeps the same rows from meeting in every pass.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]) + 8 * rng.random())
    groups: list[list[Row]] = [[]]
    for index in order:
        width = max(len(row[0]) for row in [*groups[-1][-1:], rows[index]])
        if groups[-1] and (width + 8) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(rows[index])
    rng.shuffle(groups)
    for group in groups:
        yield _pad(group)


def _pad(group: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids, _ in group)
    ids = torch.zeros(len(group), width, dtype=torch.long)
    labels = torch.full((len(group), width), IGNORED)
    for place, (row_ids, row_labels) in enumerate(group):
        ids[place, : len(row_ids)] = torch.tensor(row_ids)
        labels[place, : len(row_labels)] = torch.tensor(row_labels)
    return ids, labels


def loss_of(decoder: torch.nn.Module, head: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss over the labelled tokens; the head only runs where there is a label, which saves a tenth of the time.

    No attention mask is needed: padding stands on the right, and attention is causal.
    """
    targets = labels[:, 1:]
    learned = targets != IGNORED
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][learned]
    return torch.nn.functional.cross_entropy(head(hidden).float(), targets[learned])
