"""The safe way out of pickle files: a model whose weights are pickles, written again as safetensors."""

from studio.conversion.converting import convert, convert_adapter, pickled_weights, read_conversion
from studio.conversion.writing import REPORT, Conversion

__all__ = ["REPORT", "Conversion", "convert", "convert_adapter", "pickled_weights", "read_conversion"]
