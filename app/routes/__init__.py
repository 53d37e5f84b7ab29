"""One module per area, each with a `router`; this is the order in which they are included."""

from fastapi import APIRouter

from app.routes import (
    auth,
    bulk,
    classifiers,
    corpus,
    dashboard,
    explanations,
    exports,
    functions,
    jobs,
    latents,
    projects,
    review,
    rule,
)

AREAS = (
    auth,
    jobs,
    projects,
    corpus,
    latents,
    dashboard,
    explanations,
    functions,
    rule,
    bulk,
    review,
    classifiers,
    exports,
)


def routers() -> list[APIRouter]:
    return [area.router for area in AREAS]
