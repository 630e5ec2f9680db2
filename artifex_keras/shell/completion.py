"""Scripts by which bash and zsh complete the command `artifex-keras`; nothing is imported for them.

The names are those of tables elsewhere; a test compares them.
"""

__all__ = ["CHOICES", "FAMILIES", "SHELLS", "completion"]

FAMILIES = (
    *("autoregressive", "diffusion", "distillation", "dpo", "energy", "flow", "flow-matching"),
    *("gan", "grpo", "kto", "pixel-autoregressive", "ppo", "reinforce", "reward", "rloo", "sft"),
    "vae",
)
CHOICES = {  # words that an option takes, beside files
    "--data": (
        *("checkerboard", "cifar10", "digits", "fashion_mnist", "gaussians", "mnist", "moons"),
        *("ring", "swiss_roll"),
    ),
    "--optimizer": (
        *("adafactor", "adagrad", "adam", "adamw", "lamb", "lion", "muon", "nadam", "rmsprop"),
        *("schedule_free_adamw", "sgd"),
    ),
    "--track": ("jsonl", "mlflow", "tensorboard", "wandb"),
    "--augment": (
        *("blur", "brightness", "contrast", "cutout", "flip", "hue", "rotate", "saturation"),
        *("shear", "translate", "zoom"),
    ),
}
FILES = {"--data", "--config", "--output", "--resume", "--from", "--reward", "--tokenizer"}
FILES |= {"--teacher"}

BASH = r"""_artifex_keras() {
    local cur prev word before family i words
    COMPREPLY=()
    cur="${COMP_WORDS[COMP_CWORD]}"
    prev="${COMP_WORDS[COMP_CWORD-1]}"
    before="" family=""
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        case "$word" in
            %(commands_or)s) before="$word" ;;
            %(families_or)s) family="$word" ;;
        esac
    done
    case "$prev" in
%(values)s
        --set)
            [ -n "$family" ] || return
            if [ "$_artifex_keras_of" != "$family" ]; then
                _artifex_keras_keys="$(artifex-keras options "$family" --keys 2>/dev/null)"
                _artifex_keras_of="$family"
            fi
            words="$_artifex_keras_keys"
            COMPREPLY=($(compgen -S = -W "$words" -- "$cur"))
            return ;;
    esac
    if [[ "$cur" == -* ]]; then
        case "$before" in
%(options)s
        esac
    else
        case "$before" in
            train | plan | doctor | options) words="" ; [ -n "$family" ] || words="%(families)s" ;;
            completion) words="%(shells)s" ;;
            sample | evaluate | report | card) COMPREPLY=($(compgen -d -- "$cur")) ; return ;;
            "") words="%(commands)s" ;;
            launch) words="train" ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _artifex_keras artifex-keras
"""

ZSH = r"""#compdef artifex-keras
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
autoload -Uz bashcompinit && bashcompinit
"""

SHELLS = {"bash": "", "zsh": ZSH}


def completion(shell, options):
    """The script for a shell, a row of `SHELLS`.

    Args:
        shell: its name.
        options: {command: its options}.
    """
    commands, families = " ".join(options), " ".join(FAMILIES)
    script = BASH % {
        "commands": commands,
        "commands_or": commands.replace(" ", " | "),
        "families": families,
        "families_or": families.replace(" ", " | "),
        "shells": " ".join(SHELLS),
        "values": "\n".join(_values()),
        "options": "\n".join(
            f'            {"" if name else chr(34) * 2}{name}) words="{" ".join(given)}" ;;'
            for name, given in {**options, "": ["--help", "--version"]}.items()
        ),
    }
    return SHELLS[shell] + script


def _values():
    """A branch for each option whose values are words or files."""
    for option in sorted({*CHOICES, *FILES}):
        words = f'$(compgen -W "{" ".join(CHOICES.get(option, ()))}" -- "$cur")'
        files = ' $(compgen -f -- "$cur")' if option in FILES else ""
        yield f"        {option}) COMPREPLY=({words}{files}) ; return ;;"
