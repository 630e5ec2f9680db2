"""What `export` writes: a model's methods as signatures of a SavedModel."""

import functools
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from artifex_keras.aliases import FilePath
from artifex_keras.arguments import integer, unknown_name
from artifex_keras.backend import EXPORT_OPTIONS, FrozenScope
from artifex_keras.models.one_function import OneFunction, converting

__all__ = ["Served", "signatures_of"]

FORMATS = ("tf_saved_model", "onnx", "openvino", "litert", "torch")

DRAWING = ("sample", "generate")  # they take a seed, and give a number of rows fixed at the export
SEED = "seed"


class Served:
    """The part of a model that `export` writes for others to call.

    A family names in `served` the methods that become signatures beside `serve`, which is `call`.
    """

    served = ("sample",)
    not_served = (
        "trains a policy, which is what can be used: export that, by `.policy.export(...)`."
    )

    def export(
        self,
        filepath: FilePath,
        format: str = "tf_saved_model",
        verbose: bool | int | str | None = None,
        input_signature: Any = None,
        *,
        signatures: Sequence[str] | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        """Writes the model for programs that have neither Keras nor this package.

        A SavedModel has `serve`, which is the model's `call`, and a signature for each method that
        one uses a trained model by: `sample`, and by family `encode`, `decode`, `log_prob`,
        `energy`, `generate`. All of them use the average of the weights, where the model has one.
        `sample` and `generate` take a `seed`, an int32 scalar: the same seed gives what
        `model.sample(n, seed=seed)` gives, on the same backend. A SavedModel needs TensorFlow
        installed, and the JAX or TensorFlow backend.

        Args:
            filepath: a folder for a SavedModel, a file for the other formats.
            format: "tf_saved_model"; or "onnx", "openvino", "litert" or "torch", which hold one
                function: `call`, or the one that `signatures` names, without random numbers. They
                need packages of their own, and not every network can be converted.
            verbose: whether to print what was written.
            input_signature: of `call`, where it isn't to be that of the training data.
            signatures: which methods, and with which arguments: a list of names, or a dict such as
                `{"sample": {"n": 64, "num_steps": 20}, "encode": {}}`. All of the family's by
                default, with the methods' own defaults and `n=1`.
            kwargs: see `keras.Model.export`.

        Raises:
            ValueError: before the model is built; for a method that can't be a signature, an
                argument that it doesn't take, and what a format can't hold.
            ImportError: names the package that a format needs.

        Example:

        ```python
        import artifex_keras as ak

        vae = ak.VAE(ak.networks.mlp_encoder(4, 2, (8,)), ak.networks.mlp_decoder(2, 4, (8,)))
        # vae.export("vae", signatures={"sample": {"n": 16}, "encode": {}})
        # With TensorFlow: served = tf.saved_model.load("vae"); served.sample(7)  # (16, 4)
        ```
        """
        self._check_built("export")
        if not self.served:
            raise ValueError(f"{type(self).__name__} {self.not_served}")
        if input_signature is None:
            input_signature = [self.call_signature()]
        if format != "tf_saved_model":
            options = {"format": format, "verbose": verbose, **kwargs}
            return self._export_one(filepath, options, input_signature, signatures)
        if importlib.util.find_spec("tensorflow") is None:
            raise ImportError(
                "`export` writes a SavedModel with TensorFlow, which isn't installed: "
                "pip install 'artifex-keras[tensorflow]'. Training stays on the backend that it "
                "has. `save` needs no TensorFlow."
            )
        chosen = signatures_of(self, signatures)
        archive = keras.export.ExportArchive()
        archive.track(self)
        serve = Signature(_frozen(self, self.call, ["inputs"]), input_signature)
        chosen = {"serve": serve, **chosen}
        for name, (method, inputs) in chosen.items():
            archive.add_endpoint(name, method, inputs, **EXPORT_OPTIONS | kwargs)
        return archive.write_out(filepath, verbose=True if verbose is None else verbose)

    def _export_one(self, filepath, options, input_signature, signatures):
        """Writes `call`, or the one method that `signatures` names."""
        format = options["format"]
        if format not in FORMATS:
            raise ValueError(unknown_name(format, FORMATS, "format"))
        method, specs = _frozen(self, self.call, ["inputs"]), input_signature
        if signatures is not None:
            name, (method, specs) = _only(format, signatures_of(self, signatures))
            if name in DRAWING:
                raise ValueError(
                    f"{format!r} has no random numbers that a seed decides, which `{name}` needs: "
                    "take format='tf_saved_model', or another signature, such as `decode`, and "
                    f"give it noise. Received: signatures={signatures}."
                )
        target = OneFunction(self, method)
        write = functools.partial(target.export, input_signature=specs, **options)
        converting(write, filepath, format)

    def call_signature(self):
        """What `call` takes, a structure of `keras.InputSpec`; rows without a number."""
        x, condition = self.data_spec(), self.given_spec()
        return x if condition is None else [x, condition]

    def data_spec(self, rows=None):
        """The `keras.InputSpec` of the data."""
        shape = self.get_build_config()["input_shape"]
        return _spec("x", (rows, *shape[1:]), "float32")

    def given_spec(self, rows=None):
        """The `keras.InputSpec` of the condition that the networks take; None without one."""
        condition = self.get_build_config()["condition"]
        if condition is None or not self.takes_condition():
            return None
        return _spec("condition", (rows, *condition["shape"][1:]), condition["dtype"])

    def takes_condition(self):
        """Whether the networks take a condition beside the data."""
        return bool(getattr(self, "conditional", False))

    def method_specs(self, name, rows, options):
        """The inputs of a method, a list of specs, without the seed and the condition.

        It draws `rows` rows, or takes any number of them where they are None.
        """
        return [] if name == "sample" else [self.data_spec(rows)]

    def served_method(self, name):
        """What is traced for a signature: the method, or one that looks at no value on the host."""
        return getattr(self, name)


def _spec(name, shape, dtype):
    return keras.InputSpec(shape=tuple(shape), dtype=dtype, name=name)


def _only(format, chosen):
    if len(chosen) != 1:
        raise ValueError(
            f"A file of {format!r} holds one function: write one file for each of `signatures`. "
            f"Received: {', '.join(chosen) or 'none'}."
        )
    return next(iter(chosen.items()))


class Signature(NamedTuple):
    """A function of tensors, and the specs of them."""

    method: object
    inputs: list


def signatures_of(model, chosen=None):
    """The signatures by name: `chosen` of the model's, or all."""
    if chosen is None:
        chosen = {name: {} for name in model.served}
    elif not isinstance(chosen, dict):
        chosen = {name: {} for name in chosen}
    for name in chosen:
        if name not in model.served:
            raise ValueError(unknown_name(name, model.served, "signature"))
    return {name: _signature(model, name, dict(options)) for name, options in chosen.items()}


def _signature(model, name, options):
    method = model.served_method(name)
    parameters = inspect.signature(method).parameters
    condition = next((each for each in ("condition", "labels") if each in parameters), None)
    draws = name in DRAWING
    rows = integer("n", options.pop("n", 1), minimum=1) if draws else None
    specs = model.method_specs(name, rows, options)
    for option in options:
        if option not in parameters and not _takes_any(parameters):
            raise ValueError(unknown_name(option, list(parameters), f"argument of `{name}`"))
    given = model.given_spec(rows) if condition and condition not in options else None

    def called(*tensors):
        arguments = dict(options)
        if given is not None:
            *tensors, arguments[condition] = tensors
        return method(*((rows,) if name == "sample" else tensors), **arguments)

    specs = [*specs, *([] if given is None else [given])]
    if draws:
        called, specs = _seeded(model, called), [_spec(SEED, (), "int32"), *specs]
    return Signature(_frozen(model, called, [spec.name for spec in specs]), specs)


def _takes_any(parameters):
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def _seeded(model, called):
    """`called` with the stream of sampling begun at the first tensor."""

    def method(seed, *tensors):
        model._sampling_seed.state.assign(
            ops.stack([ops.cast(seed, "uint32"), ops.zeros((), "uint32")])
        )
        return called(*tensors)

    return method


def _frozen(model, called, names):
    """`called`, which reads the model's variables and leaves all of them as they were.

    `names` are those of its inputs, by which a SavedModel's are called.
    """

    def method(*tensors):
        values = [(variable, variable.value) for variable in model.variables]
        with FrozenScope(values), model._in_phase("sample"):
            return called(*tensors)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    method.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    return method
