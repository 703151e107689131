"""Train the digits model and write digits_float.tflite beside this file. Needs tensorflow and scikit-learn.

    python examples/digits/train.py

The model takes `image`, float32 (batch, 8, 8, 1) in [0, 1], and gives `scores`, float32 (batch, 10), a softmax.
"""

import tempfile
from pathlib import Path
from typing import Any

import data
import numpy as np
import tensorflow as tf

TARGET = Path(__file__).with_name("digits_float.tflite")
EPOCHS = 60


def build() -> Any:
    """Three small convolutions and a softmax: about 20 thousand weights."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(10, activation="softmax"),
        ]
    )


def shifted(x: Any, y: Any, generator: np.random.Generator) -> tuple[Any, Any]:
    """The rows and, once more, the rows moved by one pixel at most: digits are not always centred."""
    moves = generator.integers(-1, 2, size=(len(x), 2))
    moved = np.stack([np.roll(row, tuple(move), axis=(0, 1)) for row, move in zip(x, moves, strict=True)])
    return np.concatenate([x, moved]), np.concatenate([y, y])


def train(digits: data.Digits) -> Any:
    """Fit the model; seeds and op order are fixed, so the same versions give the same weights."""
    tf.keras.utils.set_random_seed(data.SEED)
    tf.config.experimental.enable_op_determinism()
    model = build()
    model.compile(
        optimizer=tf.keras.optimizers.Adam(2e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    x, y = shifted(digits.train_x, digits.train_y, np.random.default_rng(data.SEED))
    model.fit(x, y, epochs=EPOCHS, batch_size=64, verbose=2)
    return model


def convert(model: Any) -> bytes:
    """The model as a float .tflite whose signature names are `image` and `scores`."""

    def serve(image: Any) -> dict[str, Any]:
        return {"scores": model(image, training=False)}

    archive = tf.keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serve, [tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image")])
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder)
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def accuracy(content: bytes, x: Any, y: Any) -> float:
    """Share of rows that the .tflite classifies as `y`."""
    run = tf.lite.Interpreter(model_content=content).get_signature_runner()
    return float(np.mean([run(image=row[None])["scores"].argmax() == label for row, label in zip(x, y, strict=True)]))


def main() -> None:
    """Train, write, and say how good it is on rows it has never seen."""
    digits = data.load()
    content = convert(train(digits))
    TARGET.write_bytes(content)
    held_out = accuracy(content, digits.test_x, digits.test_y)
    print(f"{TARGET.name}: {len(content)} bytes, held-out accuracy {held_out:.4f} on {len(digits.test_y)} digits")


if __name__ == "__main__":
    main()
