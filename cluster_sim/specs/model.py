"""What a model is: the dimensions of a dense GQA transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cluster_sim.specs.constraints import PositiveInt, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A dense decoder with grouped-query attention and a gated MLP; sizes in elements."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    name: str
    title: Text
    layers: PositiveInt
    hidden: PositiveInt
    ffn_hidden: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab: PositiveInt
    tied_embeddings: bool = False
    qk_norm: bool = False
    max_context: PositiveInt
    sources: dict[str, str]

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")

    @property
    def layer_matmul_parameters(self) -> int:
        """Weights of the four matrix products of one layer: qkv, output, gate and up, down."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.ffn_hidden

    @property
    def matmul_parameters(self) -> int:
        """Weights that every token multiplies with: all layers and the LM head; no embedding
        look-up.
        """
        return self.layers * self.layer_matmul_parameters + self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """All weights, embeddings and norms included."""
        norms = self.layers * 2 * self.hidden + self.hidden
        norms += self.layers * 2 * self.head_dim if self.qk_norm else 0
        embedding = 0 if self.tied_embeddings else self.hidden * self.vocab
        return self.matmul_parameters + embedding + norms

    def kv_elements_per_token(self) -> int:
        """Elements of keys and values that one token leaves in the cache, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim
