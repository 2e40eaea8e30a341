"""A request in the batch of a fast rank."""

from __future__ import annotations


class Running:
    """A request that holds blocks; once it decodes, tokens emitted = clock of the batch -
    ``birth``.
    """

    __slots__ = (
        "admission",
        "birth",
        "blocks",
        "computed",
        "counted",
        "joined",
        "left",
        "token_s",
        "token_step",
    )

    def __init__(self, admission: int, left: int, computed: int, blocks: int) -> None:
        self.admission, self.left, self.computed, self.blocks = admission, left, computed, blocks
        self.birth = self.joined = 0
        self.counted = 0  # of its own prompt, in what the log says
        self.token_s, self.token_step = 0.0, -1
