"""CTranslate2's format, by its own converter; the class of precision is chosen when the model is loaded."""

from pathlib import Path

from ctranslate2.converters import TransformersConverter


def convert(model: str, precision: str, source: Path, target: Path) -> None:
    """Write ``target``, quantised when int8 is wanted, in float32 otherwise."""
    del model
    TransformersConverter(str(source)).convert(str(target), quantization=precision if precision == "int8" else None)
