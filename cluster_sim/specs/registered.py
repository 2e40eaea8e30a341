"""Names of functions that users may add to: what a file may say is what is entered at the time.

The functions live in rooms above this one, which enter the keys of their tables here when they are
imported; a name that is put into such a table afterwards counts at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

BUILT_IN: dict[str, tuple[str, ...]] = {
    "scheduler": (
        *("vllm_v1", "trtllm_no_evict", "trtllm_max_utilization", "sglang", "sglang_mixed"),
        "static",
    ),
    "router": ("round_robin", "least_outstanding", "power_of_two"),
}
_ENTERED: dict[str, Collection[str]] = {}


def enter(kind: str, names: Collection[str]) -> None:
    """Let files name what a table has: ``names`` are its keys, as they are when a file is read."""
    _ENTERED[kind] = names


def known(kind: str) -> tuple[str, ...]:
    """All names of a kind, those that come with the program first."""
    return tuple(dict.fromkeys((*BUILT_IN[kind], *_ENTERED.get(kind, ()))))


@dataclass(frozen=True, slots=True)
class Registered:
    """Marks a text field that holds one of the names of a kind."""

    kind: str

    def check(self, name: object) -> str:
        """The name if there is such a one, else an error that lists all."""
        from pydantic_core import PydanticKnownError

        names = known(self.kind)
        if not isinstance(name, str) or name not in names:
            quoted = ", ".join(f"'{one}'" for one in names)
            raise PydanticKnownError("literal_error", {"expected": quoted})
        return name

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": list(known(self.kind))}
