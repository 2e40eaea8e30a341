"""Token counts of texts, without the tokenizer of any model."""

from __future__ import annotations

from cluster_sim.serving.json_rows import short

# Of UTF-8, so that texts in other alphabets have more tokens a character too. Source: README of
# github.com/openai/tiktoken ("in practice, each token corresponds to about 4 bytes").
BYTES_PER_TOKEN = 4
ESTIMATED = (
    f"token counts are estimated from the texts, {BYTES_PER_TOKEN} bytes a token (assumed: README "
    "of openai/tiktoken)"
)


def tokens_of(text: str) -> int:
    """Tokens of a text, about: at least 1.

    >>> tokens_of("hello there"), tokens_of("")
    (3, 1)
    """
    return max(1, -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN))


def text_of(key: str, value: object) -> str:
    """The text of a prompt: a text, or all that is said in a list of messages with ``content`` (a
    text, or parts with ``text``). Raises ValueError naming the key.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError(f"{key}: must be text or a list of messages (got {short(value)})")
    said: list[str] = []
    for place, message in enumerate(value):
        where = f"{key}[{place}]"
        if not isinstance(message, str | dict):
            raise ValueError(f"{where}: must be text or a message (got {short(message)})")
        content = message if isinstance(message, str) else message.get("content")
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else part
            if not isinstance(text, str | None):
                raise ValueError(f"{where}.content: must be text (got {short(text)})")
            said.append(text or "")  # pictures and calls of tools have none
    return "".join(said)
