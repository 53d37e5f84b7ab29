"""Labeling functions: one class per kind, each voting per token forget, retain or abstain.

A kind is one frozen pydantic model: `kind` names it, its fields draw the form, validate what is
posted and form the stored JSON, and `vote` does the work. Subclassing `Function` registers it.
Latents are the exception: their votes are read from the activation store, latent by latent
(`labeling.rule`), never from the text.
"""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, Self

import ahocorasick
import numpy as np
import re2
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from labeling.tokens import WORD, Spans, overlapping

FUNCTIONS: dict[str, type["Function"]] = {}
Offsets = NDArray[np.int32]  # (tok,)
Votes = NDArray[np.int8]  # (tok,)
FORGET, ABSTAIN, RETAIN = 1, 0, -1
MOST_TERMS, LONGEST_TERM = 1_000_000, 500


class Function(BaseModel):
    """What every kind has: how much a vote weighs, and whether a retain vote is final."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    needs_text: ClassVar[bool] = True

    kind: str
    weight: int = Field(1, ge=1, le=1000, description="How many latents one vote counts as.")
    veto: bool = Field(False, description="A retain vote is final: such a token is never forget.")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        kind = cls.model_fields["kind"].default
        if isinstance(kind, str):  # a base class for further kinds has no name of its own
            FUNCTIONS[kind] = cls

    @property
    def name(self) -> str:
        """How pages and reports call this function."""
        return self.kind

    def vote(self, text: str, starts: Offsets, ends: Offsets, family: str | None) -> Votes:
        """+1 forget, -1 retain, 0 abstain, for each token of one document."""
        raise NotImplementedError(f"{type(self).__name__} votes through the activation store")


class Latent(Function):
    """Votes forget where one SAE latent fires more than z standard deviations above its mean."""

    needs_text = False
    kind: Literal["latent"] = "latent"
    latent: int = Field(ge=0, description="Index of the latent in the SAE's dictionary.")

    @property
    def name(self) -> str:
        return f"latent {self.latent}"


class OneSided(Function):
    """A function that votes for one side wherever it votes at all."""

    votes: Literal["forget", "retain"] = Field(
        "forget", validation_alias=AliasChoices("votes", "vote"), description="The side it votes for."
    )

    @model_validator(mode="after")
    def _only_retain_vetoes(self) -> Self:
        if self.veto and self.votes == "forget":
            raise ValueError("only a function that votes retain can have the final word; untick veto or vote retain")
        return self

    @property
    def sign(self) -> int:
        return FORGET if self.votes == "forget" else RETAIN

    def _on(self, hit: NDArray[np.bool_]) -> Votes:
        return np.where(hit, np.int8(self.sign), np.int8(ABSTAIN))


class Pattern(OneSided):
    """Votes on tokens that overlap a match of a regular expression (RE2: linear time, no backtracking)."""

    kind: Literal["pattern"] = "pattern"
    pattern: str = Field(min_length=1, max_length=10_000, description="An RE2 pattern; (?i) in front ignores case.")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        _compile(pattern)
        return pattern

    @property
    def name(self) -> str:
        return f"pattern {self.pattern[:60]}"

    @cached_property
    def _compiled(self) -> Any:
        return _compile(self.pattern)

    def vote(self, text: str, starts: Offsets, ends: Offsets, family: str | None) -> Votes:
        return self._on(overlapping(starts, ends, [m.span() for m in self._compiled.finditer(text)]))


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20  # bounds both the program and its cache, whatever the pattern
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error.args[0]
        raise ValueError(f"not an RE2 pattern: {reason} (RE2 has no lookaround and no backreferences)") from None


class Terms(OneSided):
    """Votes on tokens that overlap a word or phrase of a list; the list may be long."""

    kind: Literal["terms"] = "terms"
    terms: tuple[str, ...] = Field(min_length=1, max_length=MOST_TERMS, description="Words and phrases, one a line.")
    ignore_case: bool = Field(True, description="Upper and lower case are alike.")
    whole_words: bool = Field(True, description="'art' does not match in 'heart'.")

    @field_validator("terms")
    @classmethod
    def _no_blank(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        for number, term in enumerate(terms, 1):
            if not term.strip():
                raise ValueError(f"term {number} is blank; delete it")
            if len(term) > LONGEST_TERM:
                raise ValueError(
                    f"term {number} has {len(term):,} characters; the most is {LONGEST_TERM}, one term a line"
                )
        return terms

    @property
    def name(self) -> str:
        shown = ", ".join(self.terms[:3])[:60]
        return f"terms {shown}" + (f" and {len(self.terms) - 3} more" if len(self.terms) > 3 else "")

    @cached_property
    def _by_word(self) -> dict[str, tuple[int, ...]]:
        """First word of each term -> lengths of the terms that begin with it, where only whole words match."""
        lengths: dict[str, set[int]] = {}
        for term in self._folded:
            if self.whole_words and (word := WORD.match(term)):
                lengths.setdefault(word[0], set()).add(len(term))
        return {word: tuple(sizes) for word, sizes in lengths.items()}

    @cached_property
    def _folded(self) -> frozenset[str]:
        return frozenset(map(_fold, self.terms) if self.ignore_case else self.terms)

    @cached_property
    def _automaton(self) -> ahocorasick.Automaton | None:
        """Of the terms that `_by_word` does not find: those that begin with a sign, or all if parts of words match."""
        others = [term for term in self._folded if not self.whole_words or not WORD.match(term)]
        automaton = ahocorasick.Automaton()
        for term in others:
            automaton.add_word(term, term)
        automaton.make_automaton()
        return automaton if others else None

    def vote(self, text: str, starts: Offsets, ends: Offsets, family: str | None) -> Votes:
        return self._on(overlapping(starts, ends, list(self._matches(text))))

    def _matches(self, text: str) -> Iterator[tuple[int, int]]:
        """Words are looked up one by one: a long list is a dictionary, ready at once, where an automaton is not."""
        text, known = _fold(text) if self.ignore_case else text, self._by_word
        for word in WORD.finditer(text) if known else ():
            for length in known.get(word[0], ()):
                start, end = word.start(), word.start() + length
                if text[start:end] in self._folded and not _cuts_word(text, end):
                    yield start, end
        for last, term in self._automaton.iter(text) if self._automaton is not None else ():
            start, end = last + 1 - len(term), last + 1
            if not self.whole_words or not (_cuts_word(text, start) or _cuts_word(text, end)):
                yield start, end


def _fold(text: str) -> str:
    """Lower case of the same length, so that offsets hold: 'İ' alone would become two characters."""
    low = text.lower()
    if len(low) != len(text):
        low = "".join(lower if len(lower := c.lower()) == 1 else c for c in text)
    return low.replace("ς", "σ")  # which sigma stands depends on what follows


def _cuts_word(text: str, at: int) -> bool:
    """Whether position `at` lies between two word characters."""
    return 0 < at < len(text) and bool(WORD.match(text[at - 1])) and bool(WORD.match(text[at]))


class Family(OneSided):
    """Votes on every token of every document of one family."""

    needs_text = False
    kind: Literal["family"] = "family"
    family: str = Field(min_length=1, description="A family of the corpus.")

    @property
    def name(self) -> str:
        return f"family {self.family}"

    def vote(self, text: str, starts: Offsets, ends: Offsets, family: str | None) -> Votes:
        return np.full(len(starts), self.sign if family == self.family else ABSTAIN, dtype=np.int8)


class Classifier(OneSided):
    """Votes where an exported classifier gives P(forget) of at least `above` (weak-to-strong, METHOD step 2).

    Runs the model: torch is loaded on the first vote, so vote with it in a worker only.
    """

    kind: Literal["classifier"] = "classifier"
    classifier: str = Field(min_length=1, description="Folder of an exported classifier.")
    above: float = Field(0.5, ge=0, le=1, description="Smallest P(forget) that makes it vote.")

    @property
    def name(self) -> str:
        return f"classifier {self.classifier} ≥ {self.above:g}"

    def vote(self, text: str, starts: Offsets, ends: Offsets, family: str | None) -> Votes:
        from labeling.documents import Document
        from labeling.predict import predict

        (found,) = predict(_load_classifier(self.classifier), [Document("document", text)])
        hit = found.p >= self.above
        spans: Spans = np.stack([found.starts, found.ends], axis=1)[hit].tolist()
        return self._on(overlapping(starts, ends, spans))


@lru_cache(maxsize=2)
def _load_classifier(path: str) -> Any:
    from labeling.predict import load_classifier

    return load_classifier(path)


def parse(config: dict[str, Any]) -> Function:
    """A stored or posted configuration as its function. Raises ValueError (pydantic's, naming the fields)."""
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in FUNCTIONS:
        raise ValueError(f"unknown kind of labeling function {kind!r}; kinds are {', '.join(FUNCTIONS)}")
    return FUNCTIONS[kind].model_validate(config)
