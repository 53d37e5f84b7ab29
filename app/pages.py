"""`render(request, page, partial)`: the whole page, or only its changing part when htmx asks."""

import hashlib
import json
import math
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from app import charts, jobs
from app.models import now

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "static"


def is_fragment(request: Request) -> bool:
    """htmx asks for a part; a boosted link or restored history asks for the whole page."""
    headers = request.headers
    whole = headers.get("HX-Boosted") == "true" or headers.get("HX-History-Restore-Request") == "true"
    return "HX-Request" in headers and not whole


def render(
    request: Request, page: str, /, partial: str | None = None, status: int = 200, **context: Any
) -> HTMLResponse:
    """Render `page`, or `partial` alone for htmx. Both are template paths; the page includes the partial."""
    name = partial if partial is not None and is_fragment(request) else page
    context.setdefault("user", getattr(request.state, "user", None))
    context.setdefault("viewer", getattr(request.state, "viewer", None))
    response = templates.TemplateResponse(request, name, context, status_code=status)
    response.headers["Vary"] = "HX-Request"
    return response


def redirect(request: Request, url: str) -> Response:
    """Go to another page after a POST, whether htmx or the browser sent it."""
    if "HX-Request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": url})
    return RedirectResponse(url, status_code=303)


def toast(response: Response, message: str) -> Response:
    """Let the page show a short message in its corner when htmx receives this response."""
    response.headers["HX-Trigger"] = json.dumps({"toast": message})
    return response


@lru_cache(maxsize=64)
def _content_hash(path: Path, mtime: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def static_url(name: str) -> str:
    """`/static/app.css?v=…`: cached for good by browsers, fetched anew when the file changes."""
    path = STATIC / name
    if not path.is_file():
        return f"/static/{name}"
    return f"/static/{name}?v={_content_hash(path, path.stat().st_mtime_ns)}"


def number(value: float | int | None) -> str:
    """1234567 -> 1,234,567; small fractions keep three digits."""
    if value is None:
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return sig(value) if abs(value) < 100 else f"{value:,.0f}"


def percent(value: float | None, digits: int | None = None) -> str:
    """0.0123 -> 1.2%; tiny shares keep two significant digits, so that nothing real shows as 0%."""
    if value is None or math.isnan(value):
        return "–"
    if digits is None:
        share = abs(100 * value)
        digits = 0 if share >= 99.95 or share == 0 else 1 if share >= 1 else min(5, 1 - math.floor(math.log10(share)))
    return f"{100 * value:.{digits}f}%"


def sig(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent where it can be helped: 0.0012, 1.53, 12,400."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -5:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - magnitude)
    return f"{round(value, digits - 1 - magnitude):,.{decimals}f}"


def tick(value: float) -> str:
    """An axis label: 0.5, 250, 12,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def duration(seconds: float | None) -> str:
    """90 -> 1 min 30 s."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def ago(when: datetime | None) -> str:
    """`just now`, `5 min ago`, `3 h ago`, then the date."""
    if when is None:
        return "–"
    seconds = (now() - when).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} min ago"
    if seconds < 86400:
        return f"{round(seconds / 3600)} h ago"
    return f"{round(seconds / 86400)} d ago" if seconds < 7 * 86400 else f"{when:%-d %b %Y}"


templates = Jinja2Templates(directory=ROOT / "templates")
templates.env.autoescape = True
templates.env.trim_blocks = templates.env.lstrip_blocks = True
templates.env.filters |= {
    "number": number, "percent": percent, "sig": sig, "tick": tick, "duration": duration, "ago": ago,
}  # fmt: skip
templates.env.globals |= {
    "static": static_url,
    "shown_state": jobs.shown_state,
    "is_active": jobs.is_active,
    "pace": jobs.pace,
    "chart_line": charts.line,
    "chart_bars": charts.bars,
    "chart_intervals": charts.intervals,
}
