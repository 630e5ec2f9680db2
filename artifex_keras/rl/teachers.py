"""Whether a teacher can teach a student: errors before a distillation begins."""

import keras

from artifex_keras.rl.policies import kind_of

__all__ = ["check_denoising", "check_kinds", "check_pair"]

PROBE = "Kept 1,024 words: a café, 'quoted' (twice)."  # what two tokenizers are compared by


def check_kinds(student, teacher):
    """Raises a ValueError unless both give tokens, or steps of the same kind of denoising."""
    kind = kind_of(teacher) if isinstance(teacher, keras.Model) else None
    if kind is None or (kind is not type(student) and not (student.tokens and kind.tokens)):
        raise ValueError(
            "`teacher` must be a model of the student's kind: of tokens, or of the same steps of "
            f"denoising. Received: a teacher {type(teacher).__name__} for a student "
            f"{type(student.model).__name__}."
        )


def check_pair(student, teacher):
    """Raises a ValueError for a teacher that can't teach this student."""
    shared = {id(w) for w in student.model.weights} & {id(w) for w in teacher.model.weights}
    if shared:
        raise ValueError(
            "`teacher` must not share weights with the student, which would move it along. Give a "
            "copy, as by `keras.models.clone_model`, or another model."
        )
    if not student.tokens:
        return
    sizes = [policy.vocabulary_size for policy in (student, teacher)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise ValueError(
            "`teacher` must have the student's vocabulary: their distributions are compared token "
            f"by token. Received: a teacher of {sizes[1]} tokens, a student of {sizes[0]}."
        )
    tokenizers = [policy.tokenizer for policy in (student, teacher)]
    if None not in tokenizers and len({tuple(t.encode(PROBE)) for t in tokenizers}) > 1:
        raise ValueError(
            "`teacher` must have the student's tokenizer. Received: tokenizers of "
            f"{sizes[1]} tokens that cut the same text in different ways."
        )
    if student.start_token_id != teacher.start_token_id:
        raise ValueError(
            "`teacher` must begin its texts as the student does. Received: start tokens "
            f"{teacher.start_token_id} and {student.start_token_id}."
        )


def check_denoising(on_policy, top_k, temperature, beta):
    """Raises a ValueError for arguments that a student of denoising steps has no use for."""
    given = {"on_policy": (on_policy, 1.0), "top_k": (top_k, None)}
    given |= {"temperature": (temperature, 1.0), "beta": (beta, 0.5)}
    for name, (value, default) in given.items():
        if value != default:
            raise ValueError(
                f"`{name}` is for students of tokens: steps of denoising are Gaussians of one σ, "
                "whose divergence is the same in both directions, on states that the student "
                f"samples. Leave it out. Received: {name}={value}."
            )
