"""Several threads and one model: a model is used by one thread at a time.

While a step runs, the weights are the step's, and the streams of noise are read and moved. So the
methods below wait for another thread that uses the model, and raise where that thread trains it.
A thread may enter again: callbacks sample and evaluate within their own `fit`.
"""

import contextlib
import functools
import inspect
import threading

import keras

from artifex_keras.arguments import check_keywords
from artifex_keras.backend import FrozenScope, keras_internals

TRAINING = ("fit", "fit_to")
# What reads weights and draws noise; a `Sampler` has these too.
READING = (
    *("sample", "generate", "encode", "decode", "reconstruct", "interpolate", "denoise"),
    *("denoising", "noise", "inpaint", "complete", "energy", "score", "log_prob", "log_likelihood"),
    *("log_partition", "perplexity", "bits_per_dim", "latent_report"),
)
# What else families, algorithms and their subclasses define.
OTHERS = (
    *("evaluate", "compile", "reseed", "load_ema_weights", "sampler", "table"),
    *("precompute_reference", "get_compile_config", "save_own_variables", "load_own_variables"),
)
# What Keras defines.
KERAS = (
    *("__call__", "predict", "train_on_batch", "test_on_batch", "predict_on_batch", "export"),
    *("save", "save_weights", "load_weights", "get_weights", "set_weights"),
)


class Guard:
    """Who uses a network: one thread at a time, as often as it likes.

    Attributes:
        training: what the thread trains with, such as "VAE.fit"; None while it doesn't.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._owner, self._depth = None, 0
        self.training = None

    def is_held(self, training):
        """Whether this thread has it already, and with `training`, if that is not None, trains."""
        mine = self._depth and self._owner is threading.current_thread()
        return mine and (training is None or self.training is not None)

    @contextlib.contextmanager
    def held(self, method, training):
        """Inside, the network is this thread's.

        Args:
            method: the name of what is called, for the message.
            training: what the thread trains with; None if it doesn't train.

        Raises:
            RuntimeError: if another thread trains the network.
        """
        with self._changed:
            while self._depth and self._owner is not threading.current_thread():
                if self.training:
                    raise RuntimeError(_refusal(method, self.training, self._owner.name))
                self._changed.wait()
            self._owner, before = threading.current_thread(), self.training
            self._depth += 1
            self.training = training or before
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.training = before
                self._depth -= 1
                self._owner = self._owner if self._depth else None
                self._changed.notify_all()


class Guarded:
    """The part of a model that lets one thread in at a time: wraps the methods named above."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for owner in cls.__mro__:
            if issubclass(owner, Guarded) or owner.__module__.startswith(PACKAGE):
                for name in {*TRAINING, *READING, *OTHERS, *KERAS} & vars(owner).keys():
                    method = vars(owner)[name]
                    if inspect.isfunction(method) and not hasattr(method, "_is_guarded"):
                        setattr(owner, name, guarded(method))

    def guarded_layers(self):
        """The model and the networks whose weights its methods use, those inside them too."""
        layers = [self]
        for part in (getattr(self, name, None) for name in self.submodels):
            if isinstance(part, Guarded):
                layers += part.guarded_layers()
            elif isinstance(part, keras.Layer):
                layers.append(part)
        return layers

    @contextlib.contextmanager
    def one_thread(self, method):
        """Inside, no other thread uses the model; `method` says in an error what wanted to."""
        training = _trained_with(self, method)
        guards = {id(guard): guard for guard in map(guard_of, self.guarded_layers())}
        with contextlib.ExitStack() as stack:
            for _, guard in sorted(guards.items()):  # in one order, or two threads wait for ever
                stack.enter_context(guard.held(method, training))
            if keras_internals.is_inside_step(self.step):
                raise RuntimeError(_no_weights(method))
            yield


def guard_of(layer):
    """The guard of a network, the same for all models that it is part of."""
    own = vars(layer)
    return own.get("_thread_guard") or own.setdefault("_thread_guard", Guard())


def _trained_with(model, method):
    """What a thread trains with that calls a method, for the messages; None where it doesn't."""
    return f"{type(model).__name__}.{method}" if method in TRAINING else None


def guarded(method):
    """The method of a `Guarded`, for one thread at a time."""

    takes = functools.cache(lambda: _keywords(method))

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        if not isinstance(self, Guarded):  # a network that has the method from the same part
            return method(self, *args, **kwargs)
        if kwargs and takes() is not None:
            old = getattr(method, "_old_names", ())
            check_keywords(f"{type(self).__name__}.{method.__name__}", kwargs, takes(), old)
        # Who has a model has its networks too. A frozen scope has its own weights and noise.
        held = guard_of(self).is_held(_trained_with(self, method.__name__))
        if (held and not keras_internals.is_inside_step(self.step)) or FrozenScope.is_open():
            return method(self, *args, **kwargs)
        with self.one_thread(method.__name__):
            return method(self, *args, **kwargs)

    call._is_guarded = True
    return call


def _keywords(method):
    """The names of a method's arguments; None if it takes any."""
    parameters = inspect.signature(method).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return list(parameters)[1:]


def _of_keras(name):
    """Keras's method of that name, as a method of `Guarded` that calls the next class's."""

    @functools.wraps(getattr(keras.Model, name))
    def call(self, *args, **kwargs):
        return getattr(super(Guarded, self), name)(*args, **kwargs)

    return guarded(call)


def _no_weights(method):
    return (
        f"`{method}` has no weights within a step of `fit`, which holds them. Call it from a "
        "callback on the callback's `self.model`, or use a `model.sampler()`, made before."
    )


def _refusal(method, training, thread):
    return (
        f"`{method}` can't use a model while another thread trains it: its weights are inside the "
        f"training step. Received: a call during `{training}` of thread {thread!r}. Wait until "
        "that ends, call it from a callback, or share `model.sampler()`, made before."
    )


PACKAGE = "artifex_keras."
for _name in KERAS:
    setattr(Guarded, _name, _of_keras(_name))
