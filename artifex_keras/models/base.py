"""What every family shares: how it is compiled, fitted, evaluated, and what it may be asked."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import broken_rule, check_keywords, checked, choice, decay, random_seed
from artifex_keras.backend import TrainStep, keras_internals
from artifex_keras.backend.fitting import RunningFit, named_arguments
from artifex_keras.backend.sources import is_arrays
from artifex_keras.gradient_accumulation import accumulated
from artifex_keras.models import checks, sources
from artifex_keras.models.batch import Batch, unpacked
from artifex_keras.models.building import Building
from artifex_keras.models.data_contract import Contract, check
from artifex_keras.models.ema import WeightAverage
from artifex_keras.models.examined import Examined
from artifex_keras.models.health import ON_NAN, guarded
from artifex_keras.models.lora import KeepsLora
from artifex_keras.models.measured import Measured
from artifex_keras.models.noise import NoiseStreams
from artifex_keras.models.options import Options
from artifex_keras.models.sampler import Sampler
from artifex_keras.models.saving import Saving
from artifex_keras.models.serving import Served
from artifex_keras.models.step import ModelStep
from artifex_keras.models.threads import Guarded
from artifex_keras.models.traced import Traced

__all__ = ["Batch", "GenerativeModel"]


@checked(ema_decay=decay)
class GenerativeModel(
    ModelStep,
    Options,
    Traced,
    Guarded,
    Building,
    Saving,
    Served,
    Examined,
    Measured,
    NoiseStreams,
    KeepsLora,
    WeightAverage,
    TrainStep,
    keras.Model,
):
    """The base of all families.

    A family gives its networks' names in `submodels`, its own constructor arguments in `options`,
    and writes `build(input_shape)`, `objective(batch, training)`, `call(inputs, training)` and
    `sample(n)`. It inherits `fit`, `evaluate`, `save`, the average of its weights, repeatable
    noise, loss scaling, gradient accumulation and fused execution on the three backends.

    The objective gives a dict of terms, `"loss"` among them, each per example of shape (B,) or a
    scalar of the whole batch. Terms are averaged with the sample weights, Σ w·v / Σ w, and so are
    the metrics over an epoch. `metric_names` is a dict of the other terms' names: "max" for one
    that should rise, "min" for one that should fall, None for one of which neither is better.
    `metric_types` names those that are another `keras.metrics.Metric` than the mean. A family whose
    examples count for more or less than one says so in `unpack`.

    Args:
        ema_decay: decay d of the exponential moving average of all floating weights, statistics of
            normalisation included. Update number n (from 0) uses min(d, (1 + n)/(10 + n)), so that
            the average forgets the initial weights. The average serves validation, `sample`,
            `predict` and `export`; None keeps none.
        seed: makes training, evaluation and sampling repeatable.

    Example:

    ```python
    import keras
    import numpy as np
    from keras import ops

    import artifex_keras as ak

    class Mean(ak.GenerativeModel):
        def build(self, input_shape, condition=None):
            self.mean = self.add_weight(name="mean", shape=input_shape[1:], initializer="zeros")
            self.finish_build(input_shape)

        def objective(self, batch, training):
            return {"loss": ops.sum(ops.square(batch.x - self.mean), axis=-1)}

        def call(self, inputs, training=False):
            return inputs - self.mean

        def sample(self, n=1):
            return self.mean + self.normal((n, *self.mean.shape))

    model = Mean(seed=0)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(np.ones((32, 2), "float32"), epochs=1, verbose=0)
    points = model.sample(3)  # (3, 2)
    ```
    """

    submodels = ()
    live_options = ("ema_decay",)
    counts = "examples"  # what the weights of `unpack` sum to
    on_nan = "raise"  # see `compile`
    limits = {}  # by name: how far from 0 the mean of a metric may be after an epoch
    remedies = ()  # what usually helps where this family's loss is no number
    unbounded = {}  # by network: what it gives, which needs a last layer without bounds
    may_be_positive = ()  # of these, what may as well have a lower bound
    makes_data = None  # the network, by name, that gives data, and not what they are made of
    wants_scaled = True  # whether the data should have a deviation near 1
    wants_centred = False  # and a mean near 0
    data_have_scale = True  # False where they are ids
    takes_shorter = False  # whether rows may be shorter than those it was built for
    takes_columns = False  # whether dicts of data have columns that the class itself names
    way_with_texts = None  # what has texts where `predict` hasn't, for its error
    running_fit = None  # the `backend.fitting.RunningFit` while there is one
    _weighed = None  # the sample weights of the batches that are read now

    def __init__(
        self,
        *,
        ema_decay: float | None = None,
        seed: int | None = None,
        metric_names: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.ema_decay = ema_decay
        self.seed = random_seed("seed", seed)
        self.compiled_methods = {}
        self.make_streams()
        self._average = []
        self.step = self.add_weight(
            name="step", shape=(), dtype="int32", initializer="zeros", trainable=False
        )
        self.make_metrics(metric_names)

    # Options that are set later

    def known_attributes(self):
        inside = {"learning_rate": "optimizer"} if self.compiled else {}
        compiled = dict.fromkeys(("optimizer", "on_nan", "stop_training"), "")
        return inside | compiled | super().known_attributes() | dict.fromkeys(self.options, "")

    def _keep(self, name, value):
        super()._keep(name, value)
        if name == "seed":
            self.restart_streams(value)
        if name == "ema_decay" and self.built:
            self.follow_networks()

    def _is_live(self, name):
        return name != "ema_decay" or bool(self._average)

    def checked_decay(self, value):
        """The decay to keep. An average can be added to a model, and can't be taken from it."""
        value = decay("ema_decay", value)
        if value is None and self._average:
            raise broken_rule(
                "ema_decay",
                value,
                "a number in [0, 1) here: the model has an average of its "
                "weights. For one without make a new model",
            )
        return value

    def __call__(self, *args: Any, **kwargs: Any):
        if self.built and args and not self.takes_columns:
            checks.call_inputs(self, args[0])
        return super().__call__(*args, **kwargs)

    # Compiling, fitting

    def compile(
        self,
        optimizer: str | Mapping[str, Any] | keras.optimizers.Optimizer | None = None,
        *,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
        jit_compile: bool | str = "auto",
        on_nan: str = "raise",
        **unknown: Any,
    ) -> None:
        """Gets the model ready to train.

        Args:
            optimizer: a Keras optimizer, its name, or its config. One that accumulates gradients
                does so by updates: schedules, averages and decay count updates, not micro-steps.
            steps_per_execution: batches a call of the compiled program; on JAX they are one
                program, with the same numbers. Logs are those of the last one. A network with
                convolutions is still stepped batch by batch on a CPU, where XLA is ten times
                slower at their gradients inside a loop.
            run_eagerly: for debugging.
            jit_compile: as in `keras.Model.compile`.
            on_nan: what `fit` does where the loss is NaN or infinite: "raise" an error that names
                the term, epoch and step, and what usually helps; "warn" with the same words, once,
                and go on; or "restore" the weights and the optimizer's state of the last epoch that
                ended with finite ones (or those before the first epoch), warn, and end training.
                "restore" copies them into main memory at each epoch; the others cost nothing. A
                float16 loss may overflow: it counts once its scale is 2^16 times smaller than it
                began. Where `fit` has a `callbacks.NaNGuard`, that one acts instead.

        Raises:
            ValueError: without an optimizer; for `loss` or `metrics`, which the family defines.
        """
        checks.compile_arguments(type(self).__name__, optimizer, unknown)
        self.follow_networks()
        self.on_nan = choice("on_nan", on_nan, ON_NAN)
        self.jit_compile_given = jit_compile
        super().compile(
            optimizer=self.prepare_optimizer(keras.optimizers.get(optimizer)),
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
            auto_scale_loss=False,
        )
        self.compiled_methods = {}

    def prepare_optimizer(self, optimizer):
        """The optimizer as training needs it: counting updates, scaling the loss for float16."""
        optimizer = accumulated(optimizer)
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if self._computes_in_float16() and not scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        return optimizer

    def _computes_in_float16(self):
        return any(layer.compute_dtype == "float16" for layer in keras_internals.all_layers(self))

    def fit(
        self,
        x: Data = None,
        y: Data = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """`keras.Model.fit`, after a look at the data.

        Args:
            x: arrays, lists or tables of them; a dict of arrays, its parts by the names in
                `backend.columns.NAMES` ("x", "image", "tokens", "y", "label", "condition", ...);
                or batches of tensors, tuples or such dicts, from tf.data, a PyDataset, a torch
                DataLoader, grain, a generator or another iterator.

        Raises:
            ValueError: for an empty dataset, one without an end and without `steps_per_epoch`,
                values that aren't finite or that the objective doesn't accept, a condition that the
                model doesn't take, a dict of other columns.
            FloatingPointError: for a loss that is no number, see `on_nan` of `compile`.
        """
        keras_internals.require_compiled(self, "fit")
        self.follow_networks()
        arguments = named_arguments(super().fit, x, y, batch_size, *args, **kwargs)
        arguments = sources.fit_arguments(self, arguments)
        self.look_at(*map(arguments.get, ("x", "y", "sample_weight")))
        with RunningFit(self, arguments) as fit, guarded(self, fit.callbacks, arguments["x"]):
            return super().fit(**arguments | {"callbacks": fit.callbacks})

    def evaluate(
        self,
        x: Data = None,
        y: Data = None,
        batch_size: int | None = None,
        verbose: bool | int | str = "auto",
        sample_weight: Tensor = None,
        steps: int | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """`keras.Model.evaluate` on data in any form that `fit` takes."""
        if keras_internals.is_validation(kwargs):
            data = {"x": x, "y": y, "sample_weight": sample_weight}
        else:
            known = inspect.signature(super().evaluate).parameters
            check_keywords("evaluate", kwargs, [name for name in known if name != "kwargs"])
            data = sources.evaluate_arguments(self, x, y, sample_weight, steps)
        object.__setattr__(self, "_weighed", None)
        logs = super().evaluate(
            **data, batch_size=batch_size, verbose=verbose, steps=steps, **kwargs
        )
        if self._weighed is not None:
            self._weighed.check()
        return logs

    def predict(
        self,
        x: Data,
        batch_size: int | None = None,
        verbose: bool | int | str = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> Any:
        """`keras.Model.predict` on data in any form that `fit` takes; targets are left out."""
        x = sources.inputs(self, x, steps)
        if not self.built and is_arrays(x):
            self._check_built("predict", *self.data_of_inputs(x))
        if not is_arrays(x):
            x = keras_internals.data_adapter(x, batch_size=batch_size, steps_per_epoch=steps)
            self._look_at_batches(x, predicting=True)
            batch_size = None
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def data_of_inputs(self, inputs):
        """`(x,)` or `(x, condition)` of what `call` takes, by which the model is built."""
        return tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)

    def predict_step(self, *state_and_data):
        *state, data = state_and_data
        if not self.takes_columns:
            data = (unpacked(data)[0],)
        return super().predict_step(*state, data)

    def sampler(self):
        """A `models.sampler.Sampler`: samples with the weights of this moment, from any thread.

        Raises:
            ValueError: before the model is built; for one that doesn't sample.

        Example:

        ```python
        from concurrent.futures import ThreadPoolExecutor

        import artifex_keras as ak

        vae = ak.VAE(ak.networks.mlp_encoder(4, 2, (8,)), ak.networks.mlp_decoder(2, 4, (8,)))
        sampler = vae.sampler()
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda seed: sampler(5, seed=seed), range(8)))  # each (5, 4)
        ```
        """
        if not hasattr(self, "sample"):
            raise ValueError(f"{type(self).__name__} has no `sample`: see the `policy` it trains.")
        self._check_built("sampler")
        return Sampler(self)

    def check_batch(self, x, y):
        """Raises a ValueError if the family can't train on such a batch. Arrays or tensors."""

    def look_at(self, x, y, weight):
        """Sees what `fit` was given, of any kind, once it is checked and before the first step."""

    def check_condition(self, condition):
        """Raises a ValueError if the family can't train on such conditions, an array or None."""

    def data_contract(self):
        """What values the family takes: a `models.data_contract.Contract`; asked once it is built.

        It is held for every row of every source.
        """
        return Contract()

    def check_values(self, x=None, y=None):
        """Raises a ValueError if `x` or the condition `y` holds what the contract doesn't allow."""
        contract = self.data_contract()
        check(contract.x, x)
        check(contract.y, y)

    def summary(self, *args, print_fn=None, **kwargs):
        """Keras's table with a row per part, then what the model adds to its networks."""
        super().summary(*args, print_fn=print_fn, **kwargs)
        say = print if print_fn is None else print_fn
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)
        say(f" {type(self).__name__}: {options}")
        for name in self.submodels:
            part = getattr(self, name)
            if hasattr(part, "count_params"):
                say(f" {name}: {part.count_params():,} parameters")
        if self._average:
            size = sum(int(np.prod(v.shape)) for v in self._average)
            say(f" average of the weights: {size:,} parameters, decay {self.ema_decay}")
