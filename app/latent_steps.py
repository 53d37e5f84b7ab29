"""Steps about single latents: explain them through an endpoint, run one over a person's own text."""

from collections.abc import Generator, Iterator
from typing import Any

from sqlalchemy import select

from app import models as m
from app.db import reading
from app.explaining import endpoint_of, questions
from app.jobs import JobView
from app.settings import Settings
from app.steps import Sessions
from labeling.events import Event, Metric, Progress
from labeling.explanations import Explanation, Question
from labeling.explanations import explain as run


def explain(settings: Settings, sessions: Sessions, job: JobView) -> Iterator[Event]:
    """Explain latents; what was asked before in the same words is not asked again. Each answer is kept at once."""
    assert job.project_id is not None
    endpoint = endpoint_of(settings)
    latents, asked = [int(n) for n in job.args["latents"]], list[Question]()
    with reading(sessions) as session:
        project = session.get_one(m.Project, job.project_id)
        reference_id = project.reference_id
        mine = (m.Explanation.project_id == project.id, m.Explanation.reference_id == reference_id)
        known = set(session.scalars(select(m.Explanation.sha256).where(*mine)))
        for done, found in enumerate(questions(session, settings, project, latents), 1):
            if found.sha256(endpoint.model) not in known:
                asked.append(found)
            yield Progress(done, len(latents), "latents", "read examples")
    spent = 0.0
    for event in run(asked, endpoint):
        if isinstance(event, Explanation):
            cost = endpoint.cost(event.tokens_in, event.tokens_out)
            spent += cost
            with sessions.begin() as session:
                session.add(
                    m.Explanation(
                        project_id=job.project_id, reference_id=reference_id, latent=event.latent, text=event.text,
                        judgement=event.judgement, score=event.score, model=endpoint.model, sha256=event.sha256,
                        tokens_in=event.tokens_in, tokens_out=event.tokens_out, cost=cost,
                    )
                )  # fmt: skip
        else:
            yield event
    yield Metric("cost", spent)


def try_text(settings: Settings, sessions: Sessions, job: JobView) -> Generator[Event, None, dict[str, Any]]:
    """One latent's activations on a text; the result is small and stays on the job's row."""
    from labeling.harvest import open_reference
    from labeling.trial import activations_on

    with reading(sessions) as session:
        reference = session.get_one(m.Reference, job.args["reference_id"])
    yield Progress(0, 1, "", "load reference")
    model, sae = open_reference(reference.model, reference.sae, reference.layer)
    found = activations_on(model, sae, int(job.args["latent"]), job.args["text"])
    yield Progress(1, 1, "", "read")
    return {"tokens": found}
