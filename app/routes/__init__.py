"""One module per area, each with a `router`; this is the order in which they are included."""

from fastapi import APIRouter

from app.routes import (
    account,
    aggregators,
    agreement,
    analysis,
    assignments,
    auth,
    bulk,
    classifiers,
    corpus,
    dashboard,
    explanations,
    exports,
    functions,
    gold,
    jobs,
    ladder,
    latents,
    projects,
    queue,
    references,
    review,
    rule,
    sealed,
    team,
    transfer,
    versions,
)

AREAS = (
    auth,
    account,
    team,
    jobs,
    projects,
    references,
    corpus,
    latents,
    dashboard,
    explanations,
    queue,
    functions,
    rule,
    analysis,
    aggregators,
    ladder,
    transfer,
    versions,
    bulk,
    review,
    assignments,
    agreement,
    gold,
    sealed,
    classifiers,
    exports,
)


def routers() -> list[APIRouter]:
    return [area.router for area in AREAS]
