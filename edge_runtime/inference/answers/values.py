"""Numbers as answers: a measured value, how odd an input is, an embedding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.outputs import OutputDeclaration
from edge_runtime.inference.answers.scores import activate, number

MAX_VALUES = 4096
MAX_DIMENSION = 16_384


def regression(raw: NDArray[Any], output: OutputDeclaration) -> dict[str, Any]:
    """`raw` (n,) * scale + offset: one "value", or several "values" (by name, if they have any), and the unit.

    Raises:
        ValueError: there are other numbers of names, scales or offsets than of values.
    """
    if raw.size > MAX_VALUES:
        raise ValueError(f"{raw.size} values are more than {MAX_VALUES}: declare it as an embedding, or as raw")
    for key, told in (("names", output.names), ("scale", output.scale), ("offset", output.offset)):
        if len(told) not in ((0, raw.size) if key == "names" else (1, raw.size)):
            raise ValueError(f"output.{key} has {len(told)} entries, but there are {raw.size} values")
    values = [number(value) for value in raw * np.asarray(output.scale) + np.asarray(output.offset)]
    answer: dict[str, Any] = {"task": "regression"}
    if output.names:
        answer["values"] = dict(zip(output.names, values, strict=True))
    elif len(values) == 1:
        answer["value"] = values[0]
    else:
        answer["values"] = values
    return answer | ({"unit": output.unit} if output.unit else {})


def anomaly(values: NDArray[Any], given: NDArray[Any] | None, output: OutputDeclaration) -> dict[str, Any]:
    """The score, the threshold, and whether the one is above the other. A score that is no number is an anomaly.

    `values` is an autoencoder's reconstruction of `given` (of as many elements), or the score itself.

    Raises:
        ValueError: no threshold, or the output is neither.
    """
    if output.threshold is None:
        raise ValueError("task anomaly needs output.threshold: from which score on it is one")
    score = _anomaly_score(values, given, output)
    return {
        "task": "anomaly",
        "score": number(score),
        "anomaly": not score <= output.threshold,
        "threshold": output.threshold,
    }


def _anomaly_score(values: NDArray[Any], given: NDArray[Any] | None, output: OutputDeclaration) -> float:
    if output.measure == "score":
        if values.size != 1:
            raise ValueError(f"output.measure is score, but the output {list(values.shape)} is not one number")
        return float(activate(values.reshape(1), output.activation)[0])
    if given is None or given.size != values.size:
        shown = "unknown" if given is None else list(given.shape)
        raise ValueError(
            f"output.measure is {output.measure}: the output {list(values.shape)} must have as many values as the "
            f"input, which is {shown}; a model that gives the score itself has output.measure=score"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        difference = values.reshape(-1).astype(np.float64) - given.reshape(-1)
        return float(np.mean(np.abs(difference) if output.measure == "mae" else difference**2))


def embedding(values: NDArray[Any], output: OutputDeclaration) -> dict[str, Any]:
    """The vector (n,), of length 1 if so declared (a vector of zeros stays one), and its dimension."""
    if values.size > MAX_DIMENSION:
        raise ValueError(f"an embedding of {values.size} numbers is more than {MAX_DIMENSION}: declare it as raw")
    vector = values.astype(np.float64)
    if output.normalize:
        length = float(np.linalg.norm(vector))
        vector = vector / length if length else vector
    return {"task": "embedding", "dimension": values.size, "vector": [number(value) for value in vector]}
