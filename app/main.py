"""`create_app(settings)`: routers, static files, error pages, and the guard around all of them."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app import routes
from app.db import reading, session_factory
from app.pages import STATIC, render, toast
from app.roles import authorise
from app.security import HEADERS, Guard, check_admin, check_bind
from app.settings import Settings
from app.settings import settings as default_settings

log = logging.getLogger("tokensieve")


class HashedStatic(StaticFiles):
    """Files asked for by content hash (`?v=…`) never change."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        forever = b"v=" in scope.get("query_string", b"") and response.status_code == 200
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if forever else "no-cache"
        return response


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or default_settings()
    check_bind(settings)
    sessions = session_factory(settings)
    with reading(sessions) as session:
        check_admin(settings, session)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        sessions.kw["bind"].dispose()

    app = FastAPI(
        title="Tokensieve", docs_url=None, redoc_url=None, lifespan=lifespan, dependencies=[Depends(authorise)]
    )
    app.state.settings, app.state.sessions = settings, sessions
    for router in routes.routers():
        app.include_router(router)
    app.mount("/static", HashedStatic(directory=STATIC), name="static")
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_crash)
    app.add_middleware(Guard, settings=settings, sessions=sessions)
    return app


def error_response(request: Request, status: int, detail: object) -> Response:
    """An error as the asker can read it: a corner message for htmx, a page for a browser, else JSON."""
    message = detail if isinstance(detail, str) else json.dumps(detail, default=str)
    if "HX-Request" in request.headers:
        response = PlainTextResponse(message, status, {"HX-Reswap": "none"})
        return toast(response, message)
    if "text/html" in request.headers.get("accept", ""):
        title = HTTPStatus(status).phrase
        return render(request, "error.html", status=status, code=status, heading=title, message=message)
    return JSONResponse({"detail": detail}, status)


async def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.detail == "Not Found":  # no route at all
        error.detail = "There is nothing at this address."
    response = error_response(request, error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def on_invalid(request: Request, error: Exception) -> Response:
    """Name the field and what is wrong with it; never echo the input back."""
    assert isinstance(error, RequestValidationError)
    parts = [f"{' '.join(str(p) for p in e['loc'][1:]) or 'request'}: {e['msg']}" for e in error.errors()]
    return error_response(request, 422, "; ".join(parts))


async def on_crash(request: Request, error: Exception) -> Response:
    log.exception("%s %s", request.method, request.url.path, exc_info=error)
    response = error_response(request, 500, "Something went wrong on our side. The server's log has the details.")
    response.headers.update(HEADERS)  # this handler answers outside the guard
    return response
