"""The command that goes on from the one that runs: another one with the same options."""

from __future__ import annotations

import shlex
from collections.abc import Collection

import click

from cluster_sim.output.tables import LABEL
from cluster_sim.output.wrapping import page_width

TYPED = "cluster_sim.typed"
UNIMPORTANT = ("debug",)


class Remembering(click.Command):
    """A command that keeps the words that it was called with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words, then read them."""
        ctx.meta[TYPED] = tuple(args)
        return super().parse_args(ctx, args)


def next_line(command: click.Command, *, without: Collection[str] = ()) -> str:
    """``Next`` and ``command`` with every option that the current command was given and it has too,
    as typed and quoted for a shell; a long one goes on behind a backslash.

    ``without`` names options that the other command has no use for.
    """
    words = ["cluster-sim", command.name or ""]
    given = _given()
    for option in command.params:
        name = str(option.name)
        if name not in given or name in (*UNIMPORTANT, *without):
            continue
        if not isinstance(option, click.Option):
            continue
        flag, value = option.opts[0], given[name]
        if option.is_flag:
            words.append(flag)
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"{flag} {shlex.quote(str(one))}" for one in values]
    return _continued("Next".ljust(LABEL), words)


def _given() -> dict[str, object]:
    """The options of the current command as they were typed, by name."""
    context = click.get_current_context()
    typed = list(context.meta.get(TYPED, ()))
    return context.command.make_parser(context).parse_args(typed)[0]


def _continued(label: str, words: list[str]) -> str:
    """Words on lines of the page's width, each but the last with a backslash."""
    width, lines, line = page_width(), [], label + words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) + len(" \\") > width and line.strip():
            lines.append(f"{line} \\")
            line = " " * LABEL + word
        else:
            line += f" {word}"
    return "\n".join([*lines, line])
