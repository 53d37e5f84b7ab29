"""What explaining latents asks, of whom, and what it would cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import artifacts, queries
from app.models import Definition, Explanation, Project
from app.settings import Settings
from labeling.explanations import ANSWER_TOKENS, Endpoint, Question, question

SAMPLE = 5  # latents read for an estimate
CHARACTERS = 3.6  # per token, on the careful side for English


def endpoint_of(settings: Settings) -> Endpoint:
    """Raises ValueError naming the setting that is missing or wrong."""
    if not settings.explain_url:
        raise ValueError("no endpoint for explanations: set TOKENSIEVE_EXPLAIN_URL and TOKENSIEVE_EXPLAIN_MODEL")
    return Endpoint(
        settings.explain_url, settings.explain_model, settings.explain_key.get_secret_value(),
        settings.explain_price_in, settings.explain_price_out,
    )  # fmt: skip


def concept_of(session: Session, project: Project) -> str:
    """The project's definition in the words its people gave it."""
    newest = select(Definition).where(Definition.project_id == project.id).order_by(Definition.version.desc())
    said = session.scalar(newest.limit(1))
    return f"{project.name}. Includes: {said.includes} Excludes: {said.excludes}" if said else project.name


def questions(session: Session, settings: Settings, project: Project, latents: Sequence[int]) -> Iterator[Question]:
    """What would be sent about each latent."""
    store = queries.newest_artifact(session, project.id, "store")
    if store is None:
        raise ValueError("the project has no activation store; run discovery first")
    opened, concept = artifacts.open_store(settings, store), concept_of(session, project)
    weights = queries.weights_of(session, project.reference_id) if project.reference_id else None
    said = artifacts.open_weights(settings, weights) if weights else None

    def text_of(key: str) -> str:
        return queries.texts_by_key(session, project.id, [key]).get(key, "")

    for latent in latents:
        promoted = [token for token, _ in said.logits(latent, "promoted")] if said else []
        yield question(opened, latent, text_of, concept, promoted)


@dataclass(frozen=True)
class Estimate:
    """At most this much: latents that were asked about in the same words cost nothing."""

    explained: int  # of the chosen latents, how many this model has explained already
    tokens_in: int
    tokens_out: int
    cost: float


def estimate(session: Session, settings: Settings, project: Project, latents: Sequence[int]) -> Estimate:
    """From the requests of a few of the latents, scaled to all."""
    endpoint = endpoint_of(settings)
    mine = (Explanation.project_id == project.id, Explanation.reference_id == project.reference_id)
    done = set(session.scalars(select(Explanation.latent).where(*mine, Explanation.model == endpoint.model)))
    some = list(questions(session, settings, project, latents[:SAMPLE]))
    each = sum(asked.characters for asked in some) / max(len(some), 1) / CHARACTERS
    tokens_in, tokens_out = round(each * len(latents)), 2 * ANSWER_TOKENS * len(latents)
    explained = sum(latent in done for latent in latents)
    return Estimate(explained, tokens_in, tokens_out, endpoint.cost(tokens_in, tokens_out))
