"""Adapters, understood from their files: what they hold, fit on and add to a base, and what can be made of them."""

from __future__ import annotations

from studio.adapters.adapter import AdaptedModule, Adapter, TokenRows, WholeTensor
from studio.adapters.attaching import Attached, apart, attach, check_attachable, no_strength, unchanged
from studio.adapters.base_weights import BaseWeights, open_base
from studio.adapters.bone import Converted, to_miss
from studio.adapters.combine import (
    COMBINATIONS,
    Combined,
    CombinedModule,
    CombineOutlook,
    CombinePlan,
    combine,
    combine_outlook,
)
from studio.adapters.compress import Compressed, CutModule, compress
from studio.adapters.extract import Extracted, ExtractedModule, ExtractPlan, LeftOut, extract
from studio.adapters.fingerprint import fingerprint
from studio.adapters.finite import check_finite
from studio.adapters.fitting import Fit, Match, Replaced, fit, fit_to, quiet
from studio.adapters.layout import Layout, Parameter, Piece, build, lay_out
from studio.adapters.reading import read
from studio.adapters.updates import Updates
from studio.adapters.xray import HeatMap, SeenModule, SeenWhole, XRay, heat_map, xray

__all__ = [
    "COMBINATIONS",
    "AdaptedModule",
    "Adapter",
    "Attached",
    "BaseWeights",
    "CombineOutlook",
    "CombinePlan",
    "Combined",
    "CombinedModule",
    "Compressed",
    "Converted",
    "CutModule",
    "ExtractPlan",
    "Extracted",
    "ExtractedModule",
    "Fit",
    "HeatMap",
    "Layout",
    "LeftOut",
    "Match",
    "Parameter",
    "Piece",
    "Replaced",
    "SeenModule",
    "SeenWhole",
    "TokenRows",
    "Updates",
    "WholeTensor",
    "XRay",
    "apart",
    "attach",
    "build",
    "check_attachable",
    "check_finite",
    "combine",
    "combine_outlook",
    "compress",
    "extract",
    "fingerprint",
    "fit",
    "fit_to",
    "heat_map",
    "lay_out",
    "no_strength",
    "open_base",
    "quiet",
    "read",
    "to_miss",
    "unchanged",
    "xray",
]
