"""What `export` writes in formats that hold one function: ONNX, OpenVINO, LiteRT, torch."""

import importlib.util
import re
from pathlib import Path

import keras

from artifex_keras import backend

__all__ = ["OneFunction", "converting"]

# What must be installed, by format and backend; None stands for all others.
PACKAGES = {
    ("onnx", "jax"): ("jax2onnx",),
    ("onnx", "tensorflow"): ("tf2onnx", "onnx"),
    ("onnx", "torch"): ("onnx", "onnxscript"),
    ("openvino", None): ("openvino",),
    ("litert", "jax"): ("tensorflow",),
    ("litert", "tensorflow"): ("tensorflow",),
    ("litert", "torch"): ("litert_torch",),
}
ENDINGS = {"torch": ".pt2", "litert": ".tflite"}
PLACES = ("Exception encountered", "in user code", "File ", "Call arguments", "Arguments received")
SHOWN = 200  # characters of another library's message
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class OneFunction(keras.Model):
    """A model whose `call` is one method of another, without random numbers."""

    def __init__(self, model, method):
        super().__init__()
        self.model, self.method = model, method
        self.built = True

    def call(self, *inputs, training=False):
        return self.method(*inputs)


def converting(write, filepath, format):
    """Calls `write(filepath)`, which converts to a format; says what is missing or can't be done.

    Raises:
        ImportError: for a package that isn't installed, with its name.
        ValueError: for what the format can't hold.
    """
    ending = ENDINGS.get(format, "")
    if not str(filepath).endswith(ending):
        raise ValueError(f"A file of {format!r} must end in {ending}. Received: {str(filepath)!r}.")
    needed = PACKAGES.get((format, backend.name()), PACKAGES.get((format, None), ()))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise _missing(format, missing)
    try:
        write(filepath)
        if format == "onnx":
            _check_onnx(filepath)
    except ImportError as error:
        if error.name is None:
            raise
        raise _missing(format, [error.name.partition(".")[0]]) from error
    except Exception as error:
        raise ValueError(
            f"{format!r} can't hold this on {backend.name()}: {_reason(error)}. An "
            "`input_signature` with a number of rows may help, or `call` without `signatures`; "
            "format='tf_saved_model' on JAX or TensorFlow holds everything."
        ) from error


def _check_onnx(path):
    """Raises, and removes the file, where it holds an operation that ONNX hasn't got."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except Exception:
        Path(path).unlink(missing_ok=True)
        raise


def _reason(error):
    """The line of a message that says what is wrong; Keras says first where it was."""
    lines = [COLOURS.sub("", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(PLACES)]
    return lines[0][:SHOWN].rstrip(". ") if lines else type(error).__name__


def _missing(format, names):
    names = " ".join(name.replace("_", "-") for name in names)
    return ImportError(
        f"format={format!r} needs what isn't installed: pip install {names}. "
        "format='tf_saved_model' needs TensorFlow alone, on JAX or TensorFlow."
    )
