"""What token ids read like in the corpus they came from, without a tokenizer.

A page must name tokens and search among them; it has the store and the texts, never the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling.store import Store

# The most frequent English function words.
_STOP_WORDS = (
    "a about after all also an and any are as at be because been before being between both but by can could did do does "
    "during each for from had has have he her him his how i if in into is it its may more most my no not of on one only "
    "or other our out over she should so some such than that the their them then there these they this those through to "
    "under up was we were what when where which while who will with would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Of every token id that occurs in the corpus: its text at its first place, and whether a word starts there."""

    ids: NDArray[np.int32]  # (word,) ascending
    surfaces: list[str]
    starts: NDArray[np.bool_]  # (word,)

    def __getitem__(self, token: int) -> str:
        at = int(np.searchsorted(self.ids, token))
        return self.surfaces[at] if at < len(self.ids) and self.ids[at] == token else ""

    def holding(self, text: str) -> NDArray[np.int32]:
        """Ids of the tokens whose text holds `text`, whatever the case."""
        wanted = text.lower()
        return self.ids[np.array([wanted in surface for surface in self._lowered], bool)]

    @cached_property
    def _lowered(self) -> list[str]:
        return [surface.lower() for surface in self.surfaces]

    @cached_property
    def classes(self) -> dict[str, NDArray[np.bool_]]:
        """Which tokens are stop words, punctuation, starts of words. Shapes (word,)."""
        stripped = [surface.strip() for surface in self.surfaces]
        return {
            "stop words": np.array([s.lower() in STOP_WORDS for s in stripped], bool) & self.starts,
            "punctuation": np.array([bool(s) and not any(c.isalnum() for c in s) for s in stripped], bool),
            "word starts": self.starts,
        }

    def to_json(self) -> dict[str, Any]:
        return {"ids": self.ids.tolist(), "surfaces": self.surfaces, "starts": self.starts.astype(int).tolist()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Vocabulary":
        return cls(np.array(value["ids"], np.int32), value["surfaces"], np.array(value["starts"], bool))


def vocabulary(store: Store, text_of: Callable[[str], str]) -> Vocabulary:
    """Reads each document that holds some token's first place, once."""
    ids, first = np.unique(store.ids, return_index=True)
    surfaces, starts = [""] * len(ids), np.zeros(len(ids), bool)
    document = store.doc_of_tokens(first)
    text, at = "", -1
    for i in np.argsort(first):
        if document[i] != at:
            at = int(document[i])
            text = text_of(store.keys[at])
        start, end = int(store.starts[first[i]]), int(store.ends[first[i]])
        surfaces[i] = text[start:end]
        starts[i] = surfaces[i][:1].isalnum() and not text[start - 1 : start].isalnum()
    return Vocabulary(ids, surfaces, starts)
