"""Several threads and one model: no answer twice, errors while it trains, and a shared sampler."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import algorithms
import families
import keras
import numpy as np
import pytest
from fresh import fresh, variables
from keras import ops

import artifex_keras as ak
from artifex_keras.callbacks import EvaluationCallback

THREADS = 24
ROWS = {row.name: row for row in (*families.FAMILIES, *algorithms.ALGORITHMS)}
PROMPTS = [[1, 2], [3]] * 20
DIFFUSION = {"num_steps": 3}
WAIT = 60  # seconds after which a test would rather fail than hang


def host(x):
    return np.array(ops.convert_to_numpy(x))


def state(model):
    return [host(variable.value) for variable in variables(model)]


def in_threads(call, jobs):
    """`call(job)` of each job, in so many threads that begin together."""
    together = threading.Barrier(len(jobs))

    def run(job):
        together.wait(WAIT)
        return call(job)

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


def equal_pairs(answers):
    return sum(
        np.array_equal(a, b) for index, a in enumerate(answers) for b in answers[index + 1 :]
    )


class Held:
    """A thread that trains while the block runs, and waits in `fit` after two batches.

    Without data it only enters as `fit` does, which costs no compiling.
    """

    def __init__(self, model, data=None):
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.model, self.data, self.error = model, data, None
        self.thread = threading.Thread(target=self._run, name="trainer")

    def _hold(self, batch, logs=None):
        if batch == 1:
            self.reached.set()
            assert self.go_on.wait(WAIT)

    def _run(self):
        hold = keras.callbacks.LambdaCallback(on_train_batch_end=self._hold)
        try:
            if self.data is None:
                with self.model.one_thread("fit"):
                    self._hold(1)
            else:
                self.model.fit(*self.data, batch_size=8, verbose=0, callbacks=[hold])
        except Exception as error:
            self.error = error
        self.reached.set()

    def __enter__(self):
        self.thread.start()
        assert self.reached.wait(WAIT) and self.error is None, self.error
        return self

    def __exit__(self, *error):
        self.go_on.set()
        self.thread.join(WAIT)
        assert not self.thread.is_alive() and self.error is None, self.error


# Threads that sample


@pytest.mark.parametrize(
    ("row", "options"),
    [("vae", {}), ("diffusion", DIFFUSION), ("energy-pcd", {"num_steps": 2})],
)
def test_no_two_threads_get_the_same_answer(row, options):
    model = fresh(ROWS[row])
    sample = functools.partial(model.sample, 4, **options)
    answers = in_threads(lambda _: host(sample()), range(THREADS))
    assert equal_pairs(answers) == 0
    model = fresh(ROWS[row])  # and they are those that one thread gets, one after the other
    alone = [host(sample()) for _ in range(THREADS)]
    assert {a.tobytes() for a in answers} == {a.tobytes() for a in alone}


def test_generated_tokens_of_threads_differ():
    model = fresh(ROWS["autoregressive"])
    generate = functools.partial(model.generate, PROMPTS, 4)
    assert equal_pairs(in_threads(lambda _: host(generate()), range(THREADS))) == 0


def test_seeds_in_threads_give_the_numbers_of_one_thread():
    model = fresh(ROWS["vae"])
    before = state(model)
    alone = [host(model.sample(4, seed=seed)) for seed in range(6)]
    answers = in_threads(lambda job: host(model.sample(4, seed=job % 6)), range(THREADS))
    for job, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, alone[job % 6])
    for now, then in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_evaluations_and_predictions_of_threads_take_turns():
    row = ROWS["vae"]
    model, (x,) = fresh(row), row.arrays()
    calls = {
        "evaluate": lambda: model.evaluate(x, verbose=0),
        "predict": lambda: model.predict(x, verbose=0)[0],
        "encode": lambda: host(model.encode(x)[0]),
    }
    alone = {name: call() for name, call in calls.items()}
    names = [*calls] * 4
    for name, answer in zip(names, in_threads(lambda name: calls[name](), names), strict=True):
        np.testing.assert_array_equal(answer, alone[name])


# Another thread trains


def other_calls(model, row, folder):
    """What another thread may try, by name."""
    x = row.arrays()
    with_batches = ("evaluate", "train_on_batch", "test_on_batch", "fit")
    calls = {name: functools.partial(getattr(model, name), *x) for name in with_batches}
    calls |= {name: functools.partial(getattr(model, name), x[0]) for name in ("predict", "encode")}
    return calls | {
        "sample": model.sample,
        "sampler": model.sampler,
        "log_prob": lambda: model.log_prob(x[0]),
        "__call__": lambda: model(x[0]),
        "save": lambda: model.save(folder / "model.keras"),
        "get_compile_config": lambda: keras.saving.save_model(model, folder / "model.keras"),
        "save_weights": lambda: model.save_weights(folder / "model.weights.h5"),
        "get_weights": model.get_weights,
        "set_weights": lambda: model.set_weights([]),
        "reseed": lambda: model.reseed(1),
        "compile": lambda: model.compile("sgd"),
    }


def test_other_threads_get_an_error_while_one_trains(tmp_path):
    row = ROWS["flow"]
    model = fresh(row)
    model.fit(*row.arrays(), batch_size=8, verbose=0)
    undisturbed = state(model)
    model = fresh(row)
    calls = other_calls(model, row, tmp_path)
    with Held(model, row.arrays()):
        for name, call in calls.items():
            with pytest.raises(RuntimeError, match=f"`{name}` can't.*`NormalizingFlow.fit` of thr"):
                call()
    for now, then in zip(state(model), undisturbed, strict=True):
        np.testing.assert_array_equal(now, then)
    for name in ("evaluate", "sample", "encode", "get_weights", "save", "fit"):  # and then they may
        calls[name]()


@pytest.mark.backends("jax")
def test_variables_and_layers_of_keras_say_it_too(tmp_path):
    """They have no method of ours that another thread would call."""
    row = ROWS["vae"]
    model = fresh(row)
    before = model.trainable_variables[0]
    reads = {
        "a variable": lambda: np.array(before),
        "a network": lambda: model.encoder(row.arrays()[0][:2]),
        "its weights": lambda: model.decoder.get_weights(),
        "the rate": lambda: float(model.optimizer.learning_rate),
        "metrics": model.get_metrics_result,
        "the state": model.get_state_tree,
        "hdf5": lambda: keras.saving.save_model(model, tmp_path / "model.h5"),
        "arithmetic": lambda: before + 1,
    }
    with Held(model, row.arrays()):
        for read in reads.values():
            with pytest.raises(
                Exception, match="while a step of `fit` or `evaluate` holds its val"
            ):
                read()
    for name in reads.keys() - {"hdf5"}:
        reads[name]()


def test_a_policy_is_its_algorithms_while_that_trains():
    policy = families.autoregressive()()
    reward = ROWS["energy-dsm"].make()
    model = ak.rl.GRPO(policy, reward, max_new_tokens=2, num_generations=2, seed=0)
    other = ak.rl.DPO(policy, seed=0)
    calls = (model.table, policy.get_weights, other.get_weights, reward.get_weights)
    with Held(model):
        for call in (*calls, lambda: policy.generate([[1]], 2)):
            with pytest.raises(RuntimeError, match="during `GRPO.fit` of thread 'trainer'"):
                call()
    for call in calls[1:]:
        call()


def test_models_that_share_a_network_share_its_training():
    encoder, decoder = ak.networks.mlp_encoder(6, 2, (4,)), ak.networks.mlp_decoder(2, 6, (4,))
    one, two = ak.VAE(encoder, decoder, seed=0), ak.VAE(encoder, decoder, seed=0)
    with Held(one), pytest.raises(RuntimeError, match="during `VAE.fit` of thread 'trainer'"):
        two.encode(np.zeros((1, 6)))
    with Held(two):
        ROWS["vae"].make().get_weights()  # others are not touched


def test_training_waits_for_another_threads_sample():
    row = ROWS["vae"]
    model, order = fresh(row), []
    inside, go_on = threading.Event(), threading.Event()

    def slow():
        with model.one_thread("sample"):
            inside.set()
            assert go_on.wait(WAIT)
            model.sample(2)
            order.append("sample")

    def train():
        model.fit(*row.arrays(), verbose=0)
        order.append("fit")

    threads = [threading.Thread(target=slow), threading.Thread(target=train)]
    threads[0].start()
    assert inside.wait(WAIT)
    threads[1].start()
    time.sleep(0.05)
    go_on.set()
    for thread in threads:
        thread.join(WAIT)
    assert order == ["sample", "fit"]


def test_a_training_that_fails_lets_others_in():
    row = ROWS["vae"]
    model = fresh(row)

    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise OSError("broken")

    def broken(_):
        with pytest.raises(OSError, match="broken"):
            model.fit(*row.arrays(), verbose=0, callbacks=[Break()])

    in_threads(broken, [0])
    assert model.sample(2).shape == (2, 6)
    model.fit(*row.arrays(), verbose=0)


# The thread that trains


def test_callbacks_of_the_training_thread_may_do_all_this():
    row = ROWS["vae"]
    model, (x,), seen = fresh(row), row.arrays(), []

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.sample(2, seed=0))

        def on_epoch_end(self, epoch, logs=None):
            model.evaluate(x, verbose=0)
            seen.append((model.sample(2), model.predict(x, verbose=0), model.get_weights()))

    evaluation = EvaluationCallback(x, every_n_steps=2)
    model.fit(
        x, batch_size=16, validation_data=(x, None), verbose=0, callbacks=[Looks(), evaluation]
    )
    assert len(seen) == 4 and len(evaluation.rows) == 1


@pytest.mark.backends("jax")
def test_within_a_step_the_same_thread_gets_an_error_too():
    row = ROWS["vae"]
    model = fresh(row)

    def batches():
        for _ in range(3):
            yield (host(model.sample(8)),)

    with pytest.raises(RuntimeError, match="`sample` has no weights within a step of `fit`"):
        model.fit(batches(), verbose=0, steps_per_epoch=3, shuffle=False)
    sampler = model.sampler()
    own = ((host(sampler(8)),) for _ in range(3))
    model.fit(own, verbose=0, steps_per_epoch=3, shuffle=False)


# A sampler


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ("vae-everything", {}),
        ("diffusion", DIFFUSION),
        ("energy-pcd", {"num_steps": 2}),
        ("autoregressive", {}),
    ],
)
def test_a_sampler_goes_on_with_its_weights_while_the_model_trains(row, options):
    row = ROWS[row]
    model = fresh(row)
    alone = [host(model.sample(4, seed=seed, **options)) for seed in range(3)]
    before, sampler = state(model), model.sampler()

    def draw(job):
        return host(sampler(4, seed=job % 3, **options))

    def check():
        for job, answer in enumerate(in_threads(draw, range(THREADS))):
            np.testing.assert_array_equal(answer, alone[job % 3])

    check()
    assert equal_pairs([host(sampler(8, **options)) for _ in range(4)]) == 0
    for now, then in zip(state(model), before, strict=True):
        np.testing.assert_array_equal(now, then)
    with Held(model, row.arrays()):
        check()
    check()


def test_a_sampler_has_what_reads_weights():
    row = ROWS["autoregressive"]
    model, (tokens,) = fresh(row), row.arrays(4)
    sampler = model.sampler()
    expected = host(model.generate(PROMPTS, 4, seed=5)), host(model.log_prob(tokens))
    model.fit(*row.arrays(), batch_size=8, verbose=0)
    found = host(sampler.generate(PROMPTS, 4, seed=5)), host(sampler.log_prob(tokens))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.allclose(expected[1], host(model.log_prob(tokens)))
    with pytest.raises(AttributeError, match="Unknown method of a sampler 'generat'.*'generate'"):
        sampler.generat([[1]], 1)
    with pytest.raises(AttributeError):
        sampler.fit(tokens)


def test_the_sampler_of_a_users_family_without_seeds():
    class Centre(ak.GenerativeModel):
        def build(self, input_shape, condition=None):
            self.mean = self.add_weight(name="mean", shape=input_shape[1:], initializer="zeros")
            self.finish_build(input_shape)

        def sample(self, n=1):
            return self.mean + self.normal((n, *self.mean.shape))

    model = Centre(seed=0)
    with pytest.raises(ValueError, match="`sampler` needs networks that know their shapes"):
        model.sampler()
    model.build((None, 2))
    sampler = model.sampler()
    model.mean.assign([100.0, 100.0])
    first = host(sampler(3, seed=1))
    np.testing.assert_array_equal(first, host(sampler(3, seed=1)))
    assert np.abs(first).max() < 10 and not np.array_equal(first, host(sampler(3, seed=2)))
    with pytest.raises(ValueError, match="DPO has no `sample`"):
        ROWS["dpo"].make().sampler()


def test_the_chains_sampler_keeps_its_name():
    model = ROWS["energy-dsm"].make(sampler="mala")
    assert model.sampler == "mala" and model.get_config()["sampler"] == "mala"
    model.sampler = "hmc"
    assert model.sampler == "hmc" and callable(model.sampler)
