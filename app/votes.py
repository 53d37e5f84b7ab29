"""Which functions' votes are cast on a store, for pages; casting those that read text is a job (`app.voting`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.artifacts import open_votes
from app.models import Artifact
from app.settings import Settings
from labeling.artifacts import sha256_json
from labeling.functions import Function, Latent, parse
from labeling.store import Store
from labeling.votes import KIND, StoredVotes, cast


@dataclass(frozen=True)
class Ballot:
    """What stands beside the latents in a rule."""

    latents: tuple[Latent, ...]  # latents with a weight of their own
    votes: tuple[StoredVotes, ...]
    waiting: tuple[Function, ...]  # their votes are not cast on this store yet

    @property
    def failed(self) -> list[StoredVotes]:
        return [vote for vote in self.votes if vote.failed]


def ballot(
    session: Session,
    settings: Settings,
    project_id: int,
    store: Store,
    store_id: int,
    configs: Sequence[dict[str, Any]],
) -> Ballot:
    """Votes of the functions with these stored configurations."""
    cast_already = cast_on(session, project_id, store_id)
    latents: list[Latent] = []
    votes: list[StoredVotes] = []
    waiting: list[Function] = []
    for config in configs:
        function = parse(config)
        if isinstance(function, Latent):
            latents.append(function)
        elif not function.needs_text:
            votes.append(_at_once(store, function))
        elif artifact := cast_already.get(sha256_json(config)):
            votes.append(open_votes(settings, artifact))
        else:
            waiting.append(function)
    return Ballot(tuple(latents), tuple(votes), tuple(waiting))


def cast_on(session: Session, project_id: int, store_id: int) -> dict[str, Artifact]:
    """Hash of a function's configuration -> its votes on this store."""
    made = select(Artifact).where(Artifact.project_id == project_id, Artifact.kind == KIND).order_by(Artifact.id)
    return {a.info["sha256"]: a for a in session.scalars(made) if a.info["store_id"] == store_id}


@lru_cache(maxsize=32)
def _at_once(store: Store, function: Function) -> StoredVotes:
    return cast(store, function, lambda _: "")
