"""The command `artifex-keras` within a test's own process."""

from artifex_keras import cli
from artifex_keras.shell import commands, training


def shell(*arguments):
    """The exit code of a command."""
    return cli.main([str(argument) for argument in arguments])


def prepared(*arguments):
    """`(config, dataset, trainer)` of a `train` command."""
    parsed = cli.parser().parse_args([*map(str, arguments)])
    commands._take_data_apart(parsed)
    return training.prepare(*commands.requested_run(parsed))
