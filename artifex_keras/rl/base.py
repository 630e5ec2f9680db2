"""What all algorithms share: a policy that is trained, a tokenizer, how both are saved."""

from artifex_keras.datasets.tokenizers import as_tokenizer
from artifex_keras.models.autoregressive import chunks
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.lora import train_lora_alone
from artifex_keras.rl.policies.base import kept_tokenizer

__all__ = ["FineTuning"]


class FineTuning(GenerativeModel):
    """The base of all algorithms.

    A layer of the policy that has LoRA, enabled before or after the algorithm is made, trains LoRA
    alone: Keras's `enable_lora` leaves it its bias. Who wants to train the bias too sets
    `layer.bias.trainable = True` after `compile`, and compiles again.

    Attributes:
        policy: the model that is trained, as it was given.
        actor: the same as a `rl.policies.Policy`, which samples and scores.
        reference: a frozen model, "lora_off", "precomputed", or None.
    """

    served = ()
    submodels = ("policy", "reference")
    takes_columns = True
    derived_options = ("actor", "end_token_id", "pad_token_id")

    data_have_scale = False
    way_with_texts = (
        "It gives what the policy makes of token ids, (B, T): a tokenizer makes ids of texts, and "
        "`.policy.generate` completes them where the policy is a `CausalLM` of KerasHub."
    )
    no_samples = "trains a policy, which is the model that has `{name}`: `.policy.{name}(...)`."

    @property
    def unbounded(self):
        return {"policy": "logits"} if self.actor.tokens else {}

    def keep_policy(self, policy, actor, reference):
        """Keeps the model and its reference."""
        self.policy, self.reference, self.actor = policy, reference, actor

    def keep_chunks(self, chunk_size, *actors):
        """Keeps how many tokens' logits exist at a time, of all who score tokens.

        Raises:
            ValueError: for a number of tokens where no chunks can be made.
        """
        chunk_size = chunks.chunk_size_rule("chunk_size", chunk_size)
        for actor in actors:
            if actor.tokens:
                chunks.check_chunks(chunk_size, actor.model, actor.has_head())
                actor.chunk_size = chunk_size
            elif isinstance(chunk_size, int):
                raise ValueError(
                    "`chunk_size` is for policies of tokens: steps of denoising have no logits. "
                    f"Leave it out. Received: chunk_size={chunk_size}."
                )
        self.chunk_size = chunk_size

    def keep_tokens(self, tokenizer, end_token_id, pad_token_id, sampling):
        """Keeps what says how texts become tokens, and the policy's options."""
        self.tokenizer = self.actor.tokenizer if tokenizer is None else as_tokenizer(tokenizer)
        # While a model is being loaded its tokenizer has no vocabulary: its ends are saved, too.
        self.end_token_id = self.actor.end_token_ids if end_token_id is None else end_token_id
        self.pad_token_id, self.sampling = pad_token_id, sampling

    @property
    def averaged_parts(self):
        return [self.policy]

    def follow_networks(self):
        if self.running_fit is None:
            train_lora_alone(self.policy)
        super().follow_networks()

    def call(self, inputs, training=False):
        """The outputs of the policy's model."""
        ours = isinstance(self.policy, GenerativeModel)  # `__call__` refuses to be within a step
        return (self.policy.call if ours else self.policy)(inputs, training=training)

    def __getattr__(self, name):
        if name in ("sample", "generate"):  # a property would say that it has them
            raise AttributeError(f"{type(self).__name__} {self.no_samples.format(name=name)}")
        finds = getattr(super(), "__getattr__", None)  # torch's, which finds submodules
        return super().__getattribute__(name) if finds is None else finds(name)

    def constructor_networks(self):
        return super().constructor_networks() | {"tokenizer": self.tokenizer}

    def get_config(self):
        config = super().get_config()
        config["tokenizer"] = kept_tokenizer(self.tokenizer, self.actor)
        return config

    def between(self, turn, data, outputs, training):
        """`(outputs, values)` for `finish_on`, made on the host of what `begin_on` gave; `turn` is
        `turn_on`, compiled, with the weights of the moment."""
        return outputs, self.on_host(data, outputs, training=training)

    def get_build_config(self):
        return {}

    def build_from_config(self, config):
        """The policy is built already."""
