"""What a model takes in memory: its weights to the byte, and the peak of generating with it or training it."""

from __future__ import annotations

from studio.memory.architecture import Facts, Layer, Stored, Tensor, parameters_by_module
from studio.memory.blueprint import read_facts
from studio.memory.disk import DiskNeeds, disk_needs
from studio.memory.estimating import Point, curve, estimate, largest
from studio.memory.fitting import Change, Fitting, make_fit
from studio.memory.hardware import DEVICES, THIS, Device, device, fit, room
from studio.memory.inference import cache_bytes
from studio.memory.offloading import BYTES_PER_SECOND
from studio.memory.record import Accuracy, Correction, Entry, Record, entries, remember, summary
from studio.memory.request import INSTALLED, PROFILES, Estimate, Moment, Note, Part, Profile, Question
from studio.memory.typed import is_typed, typed_config
from studio.memory.weights import (
    ModuleWeights,
    by_device,
    by_dtype,
    constants,
    four_bit_bytes,
    int8_bytes,
    measured,
    offloaded,
    predicted,
    short,
    total,
)

__all__ = [
    "BYTES_PER_SECOND",
    "DEVICES",
    "INSTALLED",
    "PROFILES",
    "THIS",
    "Accuracy",
    "Change",
    "Correction",
    "Device",
    "DiskNeeds",
    "Entry",
    "Estimate",
    "Facts",
    "Fitting",
    "Layer",
    "ModuleWeights",
    "Moment",
    "Note",
    "Part",
    "Point",
    "Profile",
    "Question",
    "Record",
    "Stored",
    "Tensor",
    "by_device",
    "by_dtype",
    "cache_bytes",
    "constants",
    "curve",
    "device",
    "disk_needs",
    "entries",
    "estimate",
    "fit",
    "four_bit_bytes",
    "int8_bytes",
    "is_typed",
    "largest",
    "make_fit",
    "measured",
    "offloaded",
    "parameters_by_module",
    "predicted",
    "read_facts",
    "remember",
    "room",
    "short",
    "summary",
    "total",
    "typed_config",
]
