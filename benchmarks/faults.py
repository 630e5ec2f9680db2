"""Faults of one line that tests must notice: see `benchmarks.mutants`.

A fault is found by its text alone, so it survives a move to another file: `within` names the
function or class that it is in, and spaces and line breaks don't count. `tests` names test files
by their paths' ends; `chosen` is what pytest's `-k` gets.
"""

from typing import NamedTuple

__all__ = ["FAULTS", "Fault"]


class Fault(NamedTuple):
    """One thing that may go wrong: `old` becomes `new` in the function or class `within`."""

    name: str
    within: str | None
    old: str
    new: str
    tests: str
    chosen: str = ""


OBJECTIVES = [
    Fault(
        "kl-sign-of-the-log-variance", "gaussian_kl_per_dimension",
        "ops.expm1(log_var) - log_var", "ops.expm1(log_var) + log_var",
        "test_elbo",
    ),
    Fault(
        "weighted-mean-without-where", "weighted_mean",
        "kept = ops.where(weights == 0, ops.zeros_like(values), values)", "kept = values",
        "test_masks",
    ),
    Fault(
        "sum-of-an-event-as-mean", "sum_event",
        "tuple(range(1, ops.ndim(x))) return ops.sum",
        "tuple(range(1, ops.ndim(x)))\n    return ops.mean",
        "test_masks",
    ),
    Fault(
        "free-bits-as-a-ceiling", "free_bits",
        "ops.maximum(means, floor)", "ops.minimum(means, floor)",
        "test_elbo", "free_bits",
    ),
    Fault(
        "importance-bound-without-ln-k", "importance_weighted_bound",
        "- math.log(log_weights.shape[axis])", "",
        "test_elbo", "importance or bound",
    ),
    Fault(
        "cyclical-ramp-in-half-the-time", "cyclical_weight",
        "period or 2 * warmup_steps", "period or warmup_steps",
        "test_elbo", "cycl or weight or schedule",
    ),
    Fault(
        "v-prediction-weighed-as-epsilon", None,
        '"v_prediction": lambda snr: snr + 1', '"v_prediction": lambda snr: snr',
        "objectives/test_diffusion", "weighting_is_one_objective",
    ),
    Fault(
        "min-snr-as-max-snr", "min_snr_weight",
        "ops.minimum(snr, gamma)", "ops.maximum(snr, gamma)",
        "objectives/test_diffusion", "papers_values",
    ),
    Fault(
        "path-rate-of-the-noise-positive", "linear_path",
        "PathFactors(t, 1 - t, one, -one)", "PathFactors(t, 1 - t, one, one)",
        "objectives/test_flow", "path or velocity",
    ),
    Fault(
        "change-of-variables-with-the-wrong-sign", "change_of_variables",
        "base_log_prob + log_det", "base_log_prob - log_det",
        "objectives/test_flow", "density_of_an_affine",
    ),
    Fault(
        "score-matching-without-the-half", "score_matching",
        "0.5 * sum_event(ops.square(score))", "sum_event(ops.square(score))",
        "objectives/test_energy", "score_matching",
    ),
    Fault(
        "denoising-with-the-noise-taken-off", "denoising_score_matching",
        "sigma * score + noise", "sigma * score - noise",
        "objectives/test_energy", "denoising",
    ),
    Fault(
        "gan-smoothing-on-both-sides", "vanilla_critic",
        "s * ops.softplus(a) + ops.softplus(b)", "s * ops.softplus(a) + (1 - s) * ops.softplus(b)",
        "test_adversarial",
    ),
    Fault(
        "r1-without-the-half", "r1_penalty",
        "0.5 * sum_event", "sum_event",
        "test_adversarial", "penalt",
    ),
    Fault(
        "dpo-reference-with-a-gradient", "implicit_rewards",
        "ops.stop_gradient(reference)", "reference",
        "test_preference", "constant or implicit",
    ),
    Fault(
        "ipo-target-without-the-two", "ipo_preference",
        "1 / (2 * beta)", "1 / beta",
        "test_preference", "ipo",
    ),
    Fault(
        "kto-undesirable-by-the-desirable-weight", "kto_loss",
        "undesirable_weight * ops.sigmoid(distance)", "desirable_weight * ops.sigmoid(distance)",
        "test_preference", "test_kto",
    ),
    Fault(
        "clip-bounds-swapped", "_bounds",
        "return 1 - clip_low, 1 + clip_high", "return 1 - clip_high, 1 + clip_low",
        "objectives/test_policy", "surrogate",
    ),
    Fault(
        "kl-estimate-the-other-way-round", "_k3",
        "ops.expm1(-x) + x", "ops.expm1(x) - x",
        "objectives/test_policy", "estimators",
    ),
    Fault(
        "bnpo-reduced-by-rows", "_mean_of_tokens",
        "weighted_mean(loss, mask)", "weighted_mean(row_mean(loss, mask), _rows(mask))",
        "objectives/test_policy", "surrogate",
    ),
    Fault(
        "advantages-with-ddof-zero", "_centred",
        "squares / ops.maximum(n - 1, 1.0)", "squares / ops.maximum(n, 1.0)",
        "test_advantages", "whitened or group",
    ),
    Fault(
        "gae-with-the-value-of-now", "gae",
        "rewards + gamma * later - values", "rewards + gamma * values - values",
        "test_advantages", "gae",
    ),
    Fault(
        "temperature-multiplied-in-scores", "_tempered",
        'ops.cast(logits, "float32") / temperature', 'ops.cast(logits, "float32") * temperature',
        "objectives/test_tokens", "tempered or temperature",
    ),
    Fault(
        "end-token-not-counted", "end_mask",
        "ops.cumsum(ends, axis=1) - ends", "ops.cumsum(ends, axis=1)",
        "objectives/test_tokens", "end",
    ),
]  # fmt: skip

SAMPLERS = [
    Fault(
        "ddim-eta-as-its-square", "ddim_coefficients",
        "scale = eta * s[1:]", "scale = eta**2 * s[1:]",
        "samplers/test_diffusion", "eta or variances or curved",
    ),
    Fault(
        "dpm-solver-extrapolates-backwards", "dpm_solver_coefficients",
        "data * (1 + second), previous=-data * second",
        "data * (1 - second), previous=data * second",
        "samplers/test_diffusion", "converge or curved",
    ),
    Fault(
        "ddpm-noise-in-the-last-step", "ddpm_coefficients",
        "large[-1] = 0.0", "pass",
        "samplers/test_diffusion", "posterior_at_each_step or one_step or draws_the_data",
    ),
    Fault(
        "guidance-from-the-conditional", "guidance",
        "u + scale * (c - u)", "c + scale * (c - u)",
        "samplers/test_diffusion", "guidance_is_linear",
    ),
    Fault(
        "langevin-with-the-whole-step", "langevin",
        "0.5 * step_size * _slope", "step_size * _slope",
        "test_langevin", "printed or settles",
    ),
    Fault(
        "mala-without-the-way-back", "mala",
        "0.5 * (forth - sum_event(ops.square(back)) / step_size)", "0.5 * forth * 0.0",
        "test_langevin", "leapfrog_step_is_mala or corrected",
    ),
    Fault(
        "top-p-without-what-crosses", "top_p",
        "ops.cumsum(probabilities, axis=-1) - probabilities",
        "ops.cumsum(probabilities, axis=-1)",
        "samplers/test_tokens", "top_p",
    ),
    Fault(
        "repetition-penalty-on-negative-logits-divided", "repetition_penalty",
        "logits * penalty)", "logits / penalty)",
        "samplers/test_tokens", "penalty",
    ),
    Fault(
        "cosine-schedule-a-step-late", "cosine_alphas",
        "np.linspace(0, 1, num_timesteps + 1)", "np.linspace(0, 1, num_timesteps + 2)[1:]",
        "test_noise_schedules", "cosine",
    ),
    Fault(
        "ode-likelihood-with-the-wrong-sign", "log_likelihood",
        "integral.dtype) + integral", "integral.dtype) - integral",
        "test_ode", "likelihood",
    ),
    Fault(
        "heun-from-pure-noise-unbounded", "heun_coefficients",
        "np.minimum(ratio - 1, 1)", "ratio - 1",
        "models/test_diffusion", "few_steps",
    ),
    Fault(
        "odd-start-of-an-even-slope", "_odd_start",
        "tree.map_structure(ops.negative, k)", "tree.map_structure(ops.abs, k)",
        "test_angular_flow", "density",
    ),
    Fault(
        "adams-correction-without-the-new-slope", "_adams",
        "zip(row, (i, i + 1), strict=True)", "zip(row, (i, i), strict=True)",
        "test_ode", "look_back",
    ),
    Fault(
        "chain-log-prob-without-ln-sigma", "transition_log_prob",
        "- ops.log(std)", "",
        "test_chains",
    ),
]  # fmt: skip

MODELS = [
    Fault(
        "vae-density-without-its-constant", "_bound",
        "- np.log(num_samples) - constant", "- np.log(num_samples)",
        "test_densities", "mse",
    ),
    Fault(
        "vae-running-variance-of-all-batches-alike", "update",
        "count / (count + 10.0)", "count / (count + 1.0)",
        "test_vae_variance", "finds",
    ),
    Fault(
        "vae-noise-of-the-variance", "_draw",
        "ops.exp(0.5 * log_var)", "ops.exp(log_var)",
        "test_vae", "posteriors_deviation",
    ),
    Fault(
        "vae-beta-on-the-reconstruction", "_kl_weight",
        "return self.beta * elbo.kl_weight(", "return elbo.kl_weight(",
        "test_vae", "weight_of_the_divergence",
    ),
    Fault(
        "validation-with-the-weight-of-training", "_kl_weight",
        "if not training:", "if False:",
        "test_vae", "weight_of_the_divergence or logged",
    ),
    Fault(
        "average-moved-before-the-update", "descend",
        "self._begin_average()", "self._move_average(ops.greater(optimizer.iterations, -1))",
        "test_frame", "average_follows and vae",
    ),
    Fault(
        "average-moved-in-steps-without-an-update", "_move_average",
        "share = ops.where(happened, 1.0 - decay, 0.0)", "share = 1.0 - decay",
        "models/test_base", "average_moves",
    ),
    Fault(
        "loss-scale-lost", "scaled",
        'optimizer.scale_loss(logs["loss"])', 'logs["loss"]',
        "test_mixed_precision", "float16_scales",
    ),
    Fault(
        "step-not-counted", "train_on",
        "self.step.assign_add(1)", "pass",
        "test_vae", "weight_of_the_divergence",
    ),
    Fault(
        "running-means-without-weights", "_recorded",
        "value, weights.get(name, total)", "value, None",
        "models/test_base", "means_over_examples or weigh_the_metrics",
    ),
    Fault(
        "critic-step-trains-the-generator", "_discriminator_step",
        "with self.frozen_batch_stats(self.generator):", "if True:",
        "test_gan", "statistics_are",
    ),
    Fault(
        "lazy-penalty-without-its-factor", "_lazy_penalties",
        "self.r1_every * penalty for", "penalty for",
        "test_gan", "lazy_penalties_come",
    ),
    Fault(
        "lecam-average-with-the-decay-swapped", "_lecam",
        "self.lecam_decay * old + (1 - self.lecam_decay) * mean",
        "self.lecam_decay * mean + (1 - self.lecam_decay) * old",
        "test_gan", "lecam",
    ),
    Fault(
        "edm-target-without-the-noise", "_target",
        "x - sigma_data * noise", "x + sigma_data * noise",
        "models/test_diffusion", "silent_edm",
    ),
    Fault(
        "conditions-dropped-at-the-rest", "conditioned",
        "self.uniform((rows,)) < self.condition_dropout",
        "self.uniform((rows,)) >= self.condition_dropout",
        "models/test_diffusion", "dropped",
    ),
    Fault(
        "validation-drops-conditions", "conditioned",
        'if not training or not self.uses("condition_dropout"):',
        'if not self.uses("condition_dropout"):',
        "models/test_diffusion", "dropped",
    ),
    Fault(
        "guided-halves-swapped", "guided",
        "unconditional, conditional = ops.split", "conditional, unconditional = ops.split",
        "models/test_diffusion", "guidance_of_one",
    ),
    Fault(
        "flow-likelihood-without-dequantisation", "objective",
        "-(self._log_prob(x, batch.y, training) + log_det)",
        "-self._log_prob(x, batch.y, training)",
        "models/test_flow", "more_draws",
    ),
    Fault(
        "norm-initialised-at-each-batch", "initialise",
        "self.initialised > 0.99", "self.initialised > 9.0",
        "test_bijections", "first_rows_only",
    ),
    Fault(
        "statistics-of-few-rows-as-they-are", "_shrunk",
        "PRIOR * typical", "PRIOR * own",
        "test_bijections", "few_rows",
    ),
    Fault(
        "rare-columns-far-away", "column_moments",
        "mean - x.min(axis=0)) / REACH", "mean - x.min(axis=0)) / 1e9",
        "models/test_flow_statistics", "constant_or_rare",
    ),
    Fault(
        "chains-start-anew-at-the-rest", "_from_buffer",
        "model.uniform((rows,)) >= model.replay_buffer_init_prob",
        "model.uniform((rows,)) < model.replay_buffer_init_prob",
        "models/test_energy", "share_of_the_chains",
    ),
    Fault(
        "evaluation-moves-chains", "_negatives",
        "if training and places is not None:", "if places is not None:",
        "models/test_energy", "evaluation_moves_no_chain",
    ),
    Fault(
        "score-upwards", "_score_program",
        "-self._slope(x, y, False) / sigma", "self._slope(x, y, False) / sigma",
        "models/test_energy", "score_is_minus",
    ),
    Fault(
        "partition-of-a-grid-without-the-temperature", "_grid_partition",
        "model.energy(points, labels) / model.temperature", "model.energy(points, labels)",
        "models/test_energy", "grid",
    ),
    Fault(
        "padding-is-learned", "_counts",
        "tokens != self.pad_token_id", "tokens != -1",
        "test_autoregressive", "over_tokens_not",
    ),
    Fault(
        "own-tokens-by-the-wrong-share", "_partly_own",
        "noise[1] < forced, rest, own", "noise[1] < forced, own, rest",
        "test_autoregressive", "scheduled_sampling",
    ),
]  # fmt: skip

RL = [
    Fault(
        "ppo-entropy-as-a-cost", "terms",
        "- self.entropy_coeff * entropy", "+ self.entropy_coeff * entropy",
        "test_ppo", "by_the_letter",
    ),
    Fault(
        "ppo-value-coefficient-lost", "terms",
        "self.vf_coeff * value_loss", "value_loss",
        "test_ppo", "by_the_letter",
    ),
    Fault(
        "ppo-advantages-not-whitened", "worth",
        "estimators.whiten(advantages, mask)", "advantages",
        "test_ppo", "by_the_letter",
    ),
    Fault(
        "grpo-beta-on-the-wrong-side", "worth",
        "rewards - self.beta * masked_sum(kl", "rewards + self.beta * masked_sum(kl",
        "test_grpo", "divergence_in_the_reward",
    ),
    Fault(
        "grpo-old-policy-forgotten", "terms",
        "if self._learns_once:", "if True:",
        "test_grpo", "several_updates",
    ),
    Fault(
        "truncated-answers-taught", "learn",
        "mask * rollout.ended[:, None]", "mask",
        "test_grpo", "truncated",
    ),
    Fault(
        "kl-stop-inverted", "update",
        'logs["approx_kl"] <= STOP_FACTOR', 'logs["approx_kl"] >= STOP_FACTOR',
        "test_grpo", "moved_too_far",
    ),
    Fault(
        "rollout-ahead-of-a-checkpoint", "forget_ahead",
        "self.overlap.forget()", "pass",
        "test_asynchronous", "killed",
    ),
    Fault(
        "seeds-of-the-next-rollout-forgotten", "overlapping",
        "states.append(self._changed(states[-1], changed, changes))", "states.append(states[-1])",
        "test_asynchronous", "to_the_bit",
    ),
    Fault(
        "prompts-held-out-beside-validation-data", "fit",
        'share = kwargs.get("validation_data") is None and kwargs.get("validation_split")',
        'share = kwargs.get("validation_split")',
        "test_on_policy", "held_out",
    ),
    Fault(
        "scanned-network-quantised-by-half", "quantize",
        "if any(keras_internals.passes_filters(part, filters) for part in parts):", "if False:",
        "test_scan_layers", "excludes",
    ),
    Fault(
        "a-batch-of-the-next-epoch-read-ahead", "Overlap",
        "self._is_last = bool(count) and last + 1 >= count", "self._is_last = False",
        "test_asynchronous", "beyond",
    ),
    Fault(
        "moving-baseline-that-knows-its-batch", "_against_earlier",
        "return rewards - before", "return rewards - model.mean_reward",
        "test_reinforce", "moving",
    ),
    Fault(
        "kto-with-its-own-completions", "mismatched",
        "ops.roll(tokens, 1, axis=0)", "ops.roll(tokens, 0, axis=0)",
        "test_kto", "by_the_letter",
    ),
    Fault(
        "dpo-margin-of-one-side", "objective",
        "margin = rewards[0] - rewards[1]", "margin = rewards[0]",
        "test_dpo", "by_the_letter",
    ),
    Fault(
        "reference-moves-all-the-way", "move",
        "old + mixup * (ops.cast(new, old.dtype) - old)", "ops.cast(new, old.dtype)",
        "test_on_policy", "reference_follows",
    ),
]  # fmt: skip

OPTIMIZERS = [
    Fault(
        "warm-up-a-step-late", "__call__",
        "self.learning_rate * ((step + 1.0) / self.warmup_steps)",
        "self.learning_rate * (step / self.warmup_steps)",
        "test_scheduler schedulers/test_factory", "warm",
    ),
    Fault(
        "decay-ends-a-step-late", "decay_steps",
        "self.total_steps - 1 - self.peak_step", "self.total_steps - self.peak_step",
        "test_scheduler", "hand or optax",
    ),
    Fault(
        "lamb-trust-inverted", "_trust_ratio",
        "weight / ops.where(defined, length, 1.0)", "length / ops.where(defined, weight, 1.0)",
        "test_trajectories", "paper and (Lamb or LAMB or lamb)",
    ),
    Fault(
        "nadam-momentum-without-bias-correction", "update_step",
        "(1.0 - now) * g / (1.0 - product)", "(1.0 - now) * g",
        "test_trajectories", "nadam or Nadam",
    ),
    Fault(
        "schedule-free-shares-swapped", "update_step",
        "x = (1.0 - share) * x + share * z", "x = share * x + (1.0 - share) * z",
        "test_schedule_free", "mean_of_the_iterates or warm_up",
    ),
    Fault(
        "lazy-decay-not-stretched", "lazily_regularised",
        "config[name] ** ratio", "config[name]",
        "test_gan", "stylegan",
    ),
    Fault(
        "accumulated-mean-of-the-last-call-alone", "_gathered",
        "share = added / weight", "share = 1.0",
        "test_gradient_accumulation", "one_large_one",
    ),
    Fault(
        "accumulated-calls-alike", "_gathered",
        'added = ops.maximum(ops.cast(self.call_weight, "float32"), LEAST)', "added = 1.0",
        "test_accumulation_law", "one_large_one",
    ),
    Fault(
        "accumulation-a-batch-early", "stateless_apply",
        "calls % self.steps == 0", "calls % self.steps == 1",
        "test_gradient_accumulation", "one_large_one or once_per_update",
    ),
]  # fmt: skip

CALLBACKS = [
    Fault(
        "snapshot-without-the-optimizer", "_groups",
        "slots = optimizer.variables if optimizer is not None else []", "slots = []",
        "test_checkpoint", "plain_model_goes_on",
    ),
    Fault(
        "snapshot-without-seeds", "_groups",
        "[*model.trainable_variables, *model.non_trainable_variables, *model.variables]",
        "[*model.trainable_variables]",
        "test_checkpoint", "plain_model_goes_on or (every_family and vae)",
    ),
    Fault(
        "restored-metrics-forgotten", "begin_epoch",
        'restore(self.model, self._metrics, "metrics")', "pass",
        "test_checkpoint", "batches_since",
    ),
    Fault(
        "resumed-a-batch-late", "_enumerate_batches",
        'if first < target["batch"]:', 'if first <= target["batch"]:',
        "test_checkpoint", "batches_since or plain_model_goes_on",
    ),
    Fault(
        "random-numbers-of-the-end", "state",
        "gathered(self._opened if running else self._randomness())", "gathered(self._randomness())",
        "test_checkpoint", "batches_since or every_source",
    ),
    Fault(
        "seek-reads-the-batches-before", "seeker",
        "adapter._artifex_keras_seeker = _kind(adapter)(adapter)",
        "adapter._artifex_keras_seeker = Unseekable(adapter)",
        "test_seeking", "asked_for_no_batch or no_rows",
    ),
    Fault(
        "seek-forgets-what-batches-draw", "_opened",
        "self._restore(note)", "pass",
        "test_seeking", "draw_goes_on",
    ),
    Fault(
        "seek-a-batch-late-in-grain", "add",
        "self._add(index, state)", "self._add(index + 1, state)",
        "test_seeking", "grain",
    ),
    Fault(
        "second-normal-number-not-noted", "_numpy_state",
        "if found != before or state[3]:", "if found != before:",
        "test_seeking", "noted_whenever",
    ),
    Fault(
        "utilization-of-a-row", "step_operations",
        "sum(each.flops for each in work)", "sum(each.flops for each in work) // len(batch)",
        "test_logging", "share_of_the_peak",
    ),
    Fault(
        "checksum-not-looked-at", "check",
        "if zlib.crc32(as_bytes(value)) != described[4]:", "if False:",
        "test_store test_checkpoint", "checksum or damaged",
    ),
    Fault(
        "part-of-another-save-taken", "load",
        "if _checksum(own) != checksum:", "if False:",
        "test_parts", "another_save",
    ),
    Fault(
        "best-is-the-worst", "best",
        "rated.append((-rating, -step))", "rated.append((rating, -step))",
        "test_checkpoint", "newest_and_the_best",
    ),
    Fault(
        "patience-an-epoch-longer", "_reason",
        "self.wait >= self.patience", "self.wait > self.patience",
        "test_early_stopping", "when_it_stops",
    ),
    Fault(
        "early-stopping-forgets-its-best", "set_state",
        'self.watched.best = state["best"]', "pass",
        "test_early_stopping", "state_goes_along",
    ),
    Fault(
        "nan-guard-passes-infinity", "_check",
        "not math.isfinite(float(value))", "math.isnan(float(value))",
        "test_nan_guard",
    ),
]  # fmt: skip

TRACKING = [
    Fault(
        "secret-written-down", "_flat",
        "if is_secret_name(name):", "if False:",
        "test_tracking", "no_secret",
    ),
    Fault(
        "password-in-an-address-kept", "_without_shapes",
        """LOGIN.sub(lambda found: f"{(found[1] or '')}://***@", text)""", "text",
        "test_tracking", "no_secret",
    ),
]  # fmt: skip

DISTRIBUTED = [
    Fault(
        "attention-cut-by-its-width", "_cut",
        'return "column", 1, "heads"', 'return "column", 2, "heads"',
        "test_layouts", "heads or reviewed",
    ),
    Fault(
        "fsdp-cuts-the-smallest-axis", "_fsdp_axis",
        "max(fitting, key=lambda i: weight.shape[i])",
        "min(fitting, key=lambda i: weight.shape[i])",
        "test_layouts", "fsdp or reviewed",
    ),
    Fault(
        "tables-cut-by-vocabulary", "_fsdp_axis",
        'return 1, "its width"', 'return 0, "its width"',
        "test_layouts", "by_its_width",
    ),
    Fault(
        "row-cut-as-column", "_cut",
        'return "row", rank - 2, "row: reads a column"',
        'return "row", rank - 1, "row: reads a column"',
        "test_layouts", "alternate",
    ),
    Fault(
        "traffic-in-loops-counted-once", "_times",
        "times[name] * (turns or 1)", "times[name]",
        "test_collectives", "loop",
    ),
]  # fmt: skip

NETWORKS = [
    Fault(
        "affine-log-slope-with-the-wrong-sign", "inverse",
        "ops.exp(-log_scale), -log_scale", "ops.exp(-log_scale), log_scale",
        "test_bijections", "inverts_and_knows and affine",
    ),
    Fault(
        "spline-slope-of-the-wrong-end", "_at",
        "b.next_slope * ops.square(share) + 2 * mean", "b.slope * ops.square(share) + 2 * mean",
        "test_bijections", "spline",
    ),
    Fault(
        "linear-log-det-of-one-position", "_log_det",
        "float(positions) * ops.sum(self.log_scale)", "ops.sum(self.log_scale)",
        "test_bijections", "inverts_and_knows and linear",
    ),
    Fault(
        "chain-inverted-in-the-same-order", "to_data",
        "for link in reversed(self.bijections):", "for link in self.bijections:",
        "test_bijections", "inverts_and_knows and realnvp",
    ),
    Fault(
        "future-tokens-seen", "_visible",
        "causal = places <= places[:, None]", "causal = places >= places[:, None]",
        "test_transformer", "padding_on_either",
    ),
    Fault(
        "cache-written-a-column-late", "step",
        "[zero, zero, column, zero]", "[zero, zero, column + 1, zero]",
        "test_transformer", "cached",
    ),
    Fault(
        "spectral-iteration-in-evaluation", "call",
        "if training: self.vector_u.assign", "if not training: self.vector_u.assign",
        "test_spectral", "power_iteration",
    ),
]  # fmt: skip

SEAM = [
    Fault(
        "quantised-head-without-its-cap", "_call",
        "upstream = upstream * (1 - ops.square(logits / cap))", "pass",
        "test_quantized_heads",
    ),
    Fault(
        "assignments-under-a-gradient-lost", "value_and_grad",
        "assign_all(assigned, changes)", "pass",
        "test_seam", "assignments_inside",
    ),
    Fault(
        "repeat-carries-nothing-on", "repeat",
        "assign_all(variables, values)", "pass",
        "test_seam", "repeat",
    ),
    Fault(
        "when-runs-the-other-side", "when",
        "lambda: (otherwise(), values)", "lambda: run(values)",
        "test_seam", "when",
    ),
    Fault(
        "fused-remainder-cut-to-one", "function",
        "for batch in batches: logs, state = run_single(state, batch)",
        "for batch in batches[:1]:\n                logs, state = run_single(state, batch)",
        "models/test_base", "fill_no_execution",
    ),
    Fault(
        "state-without-optimizer", "_groups", "len(state) == 4, True", "len(state) == 3, True",
        "test_traces", "traces_its_objective",
    ),
    Fault(
        "results-through-python", "run",
        "newest[:] = map(program, (state,), *zip(data)) return newest[0]",
        "return program(state, *data)",
        "test_failing_steps", "ctrl_c",
    ),
]  # fmt: skip

DATASETS = [
    Fault(
        "mask-of-prompts", "_mask",
        "place[len(prompt) : len(prompt) + len(ending)] = 1", "place[: len(prompt)] = 1",
        "test_preferences", "layout",
    ),
    Fault(
        "passes-that-begin-anew-each-epoch", "rows_of",
        "divmod(self.epoch * self.num_batches + index, self.batches_per_pass)",
        "divmod(index, self.batches_per_pass)",
        "test_batches", "steps_go_on or seed_and_epoch",
    ),
    Fault(
        "labels-not-permuted", "divide",
        "dataset.train_labels[i] for name, i", "dataset.train_labels[: len(i)] for name, i",
        "test_loading", "division or permutes",
    ),
    Fault(
        "prompts-cut-at-their-end", "_checked",
        "kept_end(row, self.max_length, start)", "row[: self.max_length]",
        "test_prompts", "long_prompts",
    ),
]  # fmt: skip

FILES = [
    Fault(
        "files-not-swept", "_sweep", "not _is_running(int(process))", "False",
        "test_atomic", "killed or unknown",
    ),
    Fault(
        "permissions-of-a-file-lost", "atomic_file",
        "shutil.copymode(target, temporary)", "pass",
        "test_atomic", "permissions",
    ),
    Fault(
        "lock-kept-by-children", "_forget", "os.close(lock._descriptor)", "pass",
        "test_folder_lock", "children",
    ),
    Fault(
        "lock-of-a-deleted-file", "_lock",
        "if os.path.samestat(os.fstat(descriptor), os.stat(path)):", "if True:",
        "test_folder_lock", "between_opening",
    ),
    Fault(
        "lock-of-a-remote-folder-for-all", "_create",
        "self._path.create(self._text(token))", "self._path.write_bytes(self._text(token))",
        "test_remote_lock", "another_process",
    ),
    Fault(
        "no-network-no-object", "exists", "except FileNotFoundError:", "except Exception:",
        "test_remote_store", "no_damage",
    ),
    Fault(
        "remote-checkpoint-of-another-run", "_sweep_own",
        "if self._lock is not None:\n                self._lock.check()", "",
        "test_remote_store", "lost_its_folder",
    ),
    Fault(
        "members-without-the-secret", "read_proof",
        "if not hmac.compare_digest(tag, self.tag(b\"member\", ours, nonce, numbers)):",
        "if False:",
        "test_rendezvous", "strangers or nobody",
    ),
    Fault(
        "one-that-comes-twice", "_check_proof", "or index in self.members", "",
        "test_rendezvous", "twice",
    ),
]  # fmt: skip

FAULTS = [
    *OBJECTIVES,
    *FILES,
    *SAMPLERS,
    *MODELS,
    *RL,
    *OPTIMIZERS,
    *CALLBACKS,
    *TRACKING,
    *DISTRIBUTED,
    *NETWORKS,
    *SEAM,
    *DATASETS,
]
