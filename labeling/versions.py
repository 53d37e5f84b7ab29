"""Versions of a rule and of its labels: what differs between two, and a form that travels without text.

A version file holds ids and indices: latents by number, settings, functions, and of each document
its id, the hash of its text and the ranges that are forget. Who has the corpus can make the labels
again and compare hashes; who has not learns nothing of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labeling.artifacts import sha256_json
from labeling.functions import Function, parse
from labeling.rule import Flags, RuleConfig, is_forget, spans_of
from labeling.store import Store

FORMAT: Literal["tokensieve-rule/1"] = "tokensieve-rule/1"


@dataclass(frozen=True)
class RuleDiff:
    """What one rule says that another does not."""

    settings: list[tuple[str, Any, Any]]  # (name, old, new)
    latents_added: list[int]
    latents_removed: list[int]
    latents_kept: int
    functions_added: list[Function]
    functions_removed: list[Function]
    functions_kept: int

    @property
    def same(self) -> bool:
        return not (
            self.settings
            or self.latents_added
            or self.latents_removed
            or self.functions_added
            or self.functions_removed
        )


def diff_rules(
    old: tuple[Mapping[str, Any], Sequence[int], Sequence[Mapping[str, Any]]],
    new: tuple[Mapping[str, Any], Sequence[int], Sequence[Mapping[str, Any]]],
) -> RuleDiff:
    """From stored (config, latents, functions) to stored; settings a version never named have their default."""
    (old_config, old_latents, old_functions), (new_config, new_latents, new_functions) = old, new
    before, after = (RuleConfig.model_validate(dict(c)).model_dump() for c in (old_config, new_config))
    one, two = ({sha256_json(f): f for f in functions} for functions in (old_functions, new_functions))
    return RuleDiff(
        settings=[(name, before[name], after[name]) for name in after if before[name] != after[name]],
        latents_added=sorted(set(new_latents) - set(old_latents)),
        latents_removed=sorted(set(old_latents) - set(new_latents)),
        latents_kept=len(set(old_latents) & set(new_latents)),
        functions_added=[parse(dict(f)) for key, f in two.items() if key not in one],
        functions_removed=[parse(dict(f)) for key, f in one.items() if key not in two],
        functions_kept=len(one.keys() & two.keys()),
    )


@dataclass(frozen=True)
class FamilyDiff:
    """Tokens of one family by which version calls them forget."""

    family: str
    tokens: int
    both: int
    only_old: int
    only_new: int


@dataclass(frozen=True)
class TokenDiff:
    """Labels of two versions on one store."""

    families: list[FamilyDiff]
    changed: list[tuple[int, int, int]]  # (document, only old, only new), most changed first

    @property
    def both(self) -> int:
        return sum(f.both for f in self.families)

    @property
    def only_old(self) -> int:
        return sum(f.only_old for f in self.families)

    @property
    def only_new(self) -> int:
        return sum(f.only_new for f in self.families)


def diff_tokens(store: Store, old: Flags, new: Flags, shown: int = 20) -> TokenDiff:
    """Counts per family and the documents that changed most, over train documents: people choose by them."""
    assert len(old) == len(new) == store.n_tokens, (len(old), len(new), store.n_tokens)
    train = store.token_split_mask("train")
    before, after = is_forget(np.asarray(old)) & train, is_forget(np.asarray(new)) & train
    parts = (before & after, before & ~after, after & ~before)
    family, count = store.token_family, len(store.families)
    tokens, *sizes = (np.bincount(family[mask], minlength=count) for mask in (train, *parts))
    gone, come = (_per_document(store, mask) for mask in parts[1:])
    order = np.argsort(-(gone + come), kind="stable")[:shown]
    return TokenDiff(
        [
            FamilyDiff(name, int(tokens[i]), *(int(size[i]) for size in sizes))
            for i, name in enumerate(store.families)
            if tokens[i]
        ],
        [(int(d), int(gone[d]), int(come[d])) for d in order if gone[d] + come[d]],
    )


def _per_document(store: Store, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    before = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))
    return before[store.doc_indptr[1:]] - before[store.doc_indptr[:-1]]


def corpus_hash(store: Store) -> str:
    """Identity of the texts a store was made of, whatever their order."""
    return sha256_json(sorted(zip(store.keys, store.doc_sha256, strict=True)))


class SourceNote(BaseModel):
    """The dictionary that latent numbers refer to."""

    model_config = ConfigDict(extra="forbid")
    model: str
    sae: str
    layer: int
    d_sae: int | None = None


class RuleNote(BaseModel):
    """What the hash is of, word for word as it was saved: later settings may have joined since."""

    model_config = ConfigDict(extra="forbid")
    sha256: str
    config: dict[str, Any]
    latents: list[int]
    functions: list[dict[str, Any]]


class DocumentNote(BaseModel):
    """One document's labels, its text left out."""

    model_config = ConfigDict(extra="forbid")
    id: str
    sha256: str
    spans: list[tuple[int, int]]


class LabelsNote(BaseModel):
    """Hash of the label array, of the corpus it is aligned with, and the labels as ranges."""

    model_config = ConfigDict(extra="forbid")
    sha256: str
    corpus_sha256: str
    documents: list[DocumentNote]


class VersionFile(BaseModel):
    """One version as a file. `check` says whether it is what its author saved."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["tokensieve-rule/1"]
    project: str
    version: int
    definition: int | None = Field(None, description="Version of the definition it was saved under.")
    source: SourceNote
    rule: RuleNote
    labels: LabelsNote | None = None


def read_version(content: bytes) -> VersionFile:
    """A version file, checked against its own hash. ValueError names the field and what to do."""
    try:
        found = VersionFile.model_validate_json(content)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ValueError(f"not a version file: {where}: {first['msg']}; export one from a project's versions") from None
    try:
        RuleConfig.model_validate(found.rule.config)
        kinds = {parse(f).kind for f in found.rule.functions}
    except ValueError as invalid:
        raise ValueError(f"rule: this installation cannot read it: {invalid}") from None
    if "classifier" in kinds:
        raise ValueError(
            "rule.functions: a classifier stays in the project it was trained in; export a version without"
        )
    if said_hash(found.rule.config, found.rule.latents, found.rule.functions) != found.rule.sha256:
        raise ValueError("rule.sha256 is not the hash of this rule: the file was edited; export it again")
    return found


def said_hash(config: Mapping[str, Any], latents: Sequence[int], functions: Sequence[Mapping[str, Any]]) -> str:
    """`labeling.rule.rule_hash` of a rule as it was stored."""
    said = {
        "config": dict(config),
        "latents": sorted(latents),
        "functions": sorted(map(dict, functions), key=sha256_json),
    }
    return sha256_json(said)


def document_notes(store: Store, flags: Flags) -> Iterator[DocumentNote]:
    """Labels of each document that has a forget token."""
    for i, (key, sha256) in enumerate(zip(store.keys, store.doc_sha256, strict=True)):
        if store.doc_split[i] != "sealed" and (spans := spans_of(store, flags, i)):
            yield DocumentNote(id=key, sha256=sha256, spans=spans)
