"""Quantization schemes: recipes for litert-quantizer, and calibration for those that need it.

Static schemes (int8, int16x8, int4) also make the model's inputs and outputs integers: a tensor request carries a
quarter (int8) of the bytes, and delegates that take only integers can run the whole graph. It is no gain in speed:
interleaved on five models, one run takes as long as with float inputs and outputs or up to a fifth longer, and
quantizing real values in numpy first costs 0.03 ms (digits) to 0.6 ms (224x224x3) more than the model's own operator.
"""

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

from converters.engine import Model, first_line, native_silence
from converters.errors import ConvertError
from converters.frontends.tflite import modernize
from converters.progress import track
from converters.samples import Samples

Scheme = Literal["none", "dynamic", "int8", "int16x8", "float16", "int4"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
Recipe = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """How weights or activations are stored."""

    bits: int
    symmetric: bool = True
    granularity: Literal["CHANNELWISE", "TENSORWISE"] = "CHANNELWISE"
    dtype: Literal["INT", "FLOAT"] = "INT"

    def config(self) -> dict[str, Any]:
        return {
            "num_bits": self.bits,
            "symmetric": self.symmetric,
            "granularity": self.granularity,
            "dtype": self.dtype,
        }


def _entry(weights: _Tensor, activations: _Tensor | None = None, operation: str = "*", **other: Any) -> dict[str, Any]:
    config = {
        "weight_tensor_config": weights.config(),
        "compute_precision": "INTEGER",
        "explicit_dequantize": False,
        "skip_checks": False,
        "min_weight_elements": 0,
    }
    if activations is not None:
        config["activation_tensor_config"] = activations.config()
    algorithm = other.pop("algorithm", "min_max_uniform_quantize")
    return {"regex": ".*", "operation": operation, "algorithm_key": algorithm, "op_config": config | other}


_W8 = _Tensor(8)
_W8_TENSORWISE = _Tensor(8, granularity="TENSORWISE")
_W4 = _Tensor(4)
_A8 = _Tensor(8, symmetric=False, granularity="TENSORWISE")
_A16 = _Tensor(16, granularity="TENSORWISE")
_F16 = _Tensor(16, granularity="TENSORWISE", dtype="FLOAT")

RECIPES: dict[Scheme, Recipe] = {
    "int8": [_entry(_W8, _A8)],
    "int16x8": [_entry(_W8, _A16)],
    # tflite-runtime 2.14 reads one scale only in a dynamic FULLY_CONNECTED and is silently wrong with one a channel.
    "dynamic": [_entry(_W8), _entry(_W8_TENSORWISE, operation="FULLY_CONNECTED")],
    # Activations of 8 bits: 1.2 to 3.9 times as fast as int4 weights alone on five models, at about the same error.
    # Depthwise weights stay at 8 bits: the quantizer makes no int4 depthwise operator with integer activations.
    "int4": [
        _entry(_W8, _A8),
        _entry(_W4, _A8, operation="CONV_2D"),
        _entry(_W4, _A8, operation="FULLY_CONNECTED"),
    ],
    "float16": [_entry(_F16, algorithm="float_casting", compute_precision="FLOAT", explicit_dequantize=True)],
}


def needs_calibration(scheme: Scheme) -> bool:
    """Whether activations get fixed ranges, which only sample data can tell."""
    return any("activation_tensor_config" in entry["op_config"] for entry in RECIPES.get(scheme, []))


def quantize(content: bytes, scheme: Scheme, calibration: Samples | None) -> bytes:
    """The float model `content` as a .tflite quantized by `scheme`; "none" gives it back as it is.

    `calibration` is used, and must be given, where the scheme needs it.

    Raises:
        ConvertError: the model is quantized already, or the scheme does not fit it.
    """
    if scheme == "none":
        return content
    if Model(content).reduced:
        raise ConvertError("the source is quantized already: bundle it as it is with --quantize none")
    try:
        with _quiet():
            result = _quantized(modernize(content), RECIPES[scheme], calibration if needs_calibration(scheme) else None)
    except ConvertError:
        raise
    except ImportError as error:
        raise ConvertError(f"litert-quantizer is missing ({error}): pip install 'edge-runtime[convert]'") from error
    except Exception as error:  # the quantizer has no family of its own
        raise ConvertError(f"litert-quantizer cannot make this model {scheme}: {first_line(error)}") from error
    if not Model(result).reduced:
        raise ConvertError(f"no operator of this model can be made {scheme}: choose another scheme, or --quantize none")
    return result


def _quantized(content: bytes, recipe: Recipe, calibration: Samples | None) -> bytes:
    from litert_quantizer import quantizer  # noqa: PLC0415 - heavy

    work = quantizer.Quantizer(content, recipe)
    ranges = None if calibration is None else _calibrate(content, recipe, calibration)
    with native_silence():
        result = work.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    if not result.quantized_model:
        raise ConvertError("litert-quantizer gave no model")
    return bytes(result.quantized_model)


def _calibrate(content: bytes, recipe: Recipe, calibration: Samples) -> dict[str, Any]:
    """Smallest and largest value of each tensor over all samples.

    The quantizer's own default is a moving average, which forgets 5 % a sample: on the sine model (100 samples in
    [0, 2 pi]) it gave a maximum error of 1.0 instead of 0.05, on Visual Wake Words .17 instead of .06 to .11.
    """
    from litert_quantizer import calibrator, recipe_manager  # noqa: PLC0415 - heavy
    from litert_quantizer.utils import qsv_utils  # noqa: PLC0415 - heavy

    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(recipe)
    with native_silence():
        work = calibrator.Calibrator(content, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    (key,) = work.get_signature_list()
    for row in track(calibration.rows(), "calibrating"):
        with contextlib.redirect_stderr(io.StringIO()):  # its own bar, one a sample
            work.calibrate({key: [row]}, rules)
    ranges: dict[str, Any] = work.get_model_qsvs()
    return ranges


@contextlib.contextmanager
def _quiet() -> Any:
    """Hold back the quantizer's warnings and log lines: what matters of them comes as an exception."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
