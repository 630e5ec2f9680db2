"""KerasHub's causal language models as policies, with their tokenizer and LoRA."""

from artifex_keras.datasets.tokenizers import Tokenizer, as_tokenizer
from artifex_keras.models.autoregressive import hub
from artifex_keras.models.lora import enable_like, without_lora
from artifex_keras.rl.policies.base import copy_weights
from artifex_keras.rl.policies.tokens import TokenPolicy

__all__ = ["HubBackbone", "HubPolicy", "without_lora"]


class HubPolicy(TokenPolicy):
    """A `keras_hub.models.CausalLM`: `fit` then takes and rewards texts, if it has a tokenizer.

    Tokens are drawn from the whole distribution at the temperature, whatever sampler the model was
    compiled with: truncated by top-k or top-p, they would not be draws from the policy that is
    scored. If the model's preprocessor begins texts with a start token, as `generate` then does,
    every prompt begins with it here: prompts of ids don't bring it along.

    After `backbone.enable_lora(rank)` the LoRA weights alone are trained, see `rl.base.FineTuning`,
    and ``reference="lora_off"`` needs no second model. The model by itself is saved with LoRA
    merged, as KerasHub does; an algorithm that is saved keeps it.

    Args:
        model: the model; `end_token_id` and `pad_token_id` are its tokenizer's unless they are
            given. The other arguments are those of `TokenPolicy`.

    Raises:
        ValueError: for a model that sees more than tokens, and for one whose logits aren't made of
            what its backbone gives.
    """

    def __init__(self, model, *, end_token_id=None, **options):
        hub.check(model)
        if hub.tokenizer(model) is not None:
            self.tokenizer = ModelTokenizer(hub.tokenizer(model))
            end_token_id = hub.end_ids(model) if end_token_id is None else end_token_id
        super().__init__(model, end_token_id=end_token_id, **options)

    def _padding(self, pad_token_id):
        own = hub.padding_id(self.model)
        return super()._padding(own if pad_token_id is None else pad_token_id)

    @property
    def start_token_id(self):
        return hub.start_id(self.model)

    @property
    def feature_width(self):
        return hub.hidden(self.model).shape[-1]

    def copy(self):
        """A frozen copy of the model, without its preprocessor."""
        config = self.model.get_config() | {"preprocessor": None}
        copy = type(self.model).from_config(config)
        enable_like(copy, self.model)
        copy_weights(self.model, copy)
        copy.trainable = False
        return copy


class HubBackbone(TokenPolicy):
    """A KerasHub backbone, which gives hidden vectors and no logits: what a reward model scores."""

    @property
    def vocabulary_size(self):
        return getattr(self.model, "vocabulary_size", None)

    @property
    def feature_width(self):
        return self.model.output_shape[-1]

    def features(self, ids, model=None, training=False):
        return hub.features(self.model if model is None else model, ids, training)


class ModelTokenizer(Tokenizer):
    """The tokenizer within a model, with which it is saved. It is asked when it is used: a model
    that is being loaded has no vocabulary yet."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @property
    def vocabulary_size(self):
        return int(self.tokenizer.vocabulary_size())

    def encode(self, text):
        return as_tokenizer(self.tokenizer).encode(text)

    def _text(self, ids):
        return as_tokenizer(self.tokenizer).decode(ids)
