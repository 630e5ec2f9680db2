"""What a compiler says of one program."""

from typing import NamedTuple

__all__ = ["Figures"]


class Figures(NamedTuple):
    """A compiled program in numbers, each for one device.

    Attributes:
        name: "step", or of a step that is interrupted "begin" and "finish".
        flops: operations, the body of a loop counted once; None if the compiler doesn't tell.
        bytes_accessed: read and written, likewise; what stays on the chip counts, too.
        memory: bytes of `arguments`, `results`, `in_place` (results that take the place of
            arguments) and `temporary`; empty if the compiler doesn't tell.
        hlo: the text of the program after partitioning and fusion.
        seconds: that compiling took.
    """

    name: str
    flops: float | None
    bytes_accessed: float | None
    memory: dict
    hlo: str
    seconds: float

    @property
    def least_traffic(self):
        """Bytes between the chip and its memory at least; None if the compiler doesn't tell.

        Each argument is read, each result written, and what is temporary both.
        """
        if not self.memory:
            return None
        within = 2 * self.memory["temporary"]
        return self.memory["arguments"] + self.memory["results"] + within
