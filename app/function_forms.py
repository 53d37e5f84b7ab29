"""A labeling function's form: drawn from its model's fields, read back into what the model checks."""

from typing import Any, NamedTuple, get_args

from fastapi import HTTPException, Request, UploadFile
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from starlette.datastructures import FormData
from starlette.datastructures import UploadFile as Uploaded

from labeling.functions import FUNCTIONS

KINDS = list(FUNCTIONS)
FILE_BYTES = 32 << 20
SHOWN_LINES = 2000  # of a long list; more would make the page, not the list, slow


class Posted(NamedTuple):
    """What a form says: `keep` is the function whose long list stays as it is, 0 for none."""

    kind: str
    name: str
    values: dict[str, Any]
    keep: int
    errors: dict[str, str]


def fields_of(kind: str) -> list[dict[str, Any]]:
    """What the form shows for a kind: its model's fields, its own before those that all have."""
    model = FUNCTIONS[kind]
    shared = [name for name in ("votes", "weight", "veto") if name in model.model_fields]
    own = [name for name in model.model_fields if name not in ("kind", *shared)]
    return [_drawn(name, model.model_fields[name]) for name in [*own, *shared] if kind != "latent" or name != "veto"]


def _drawn(name: str, field: FieldInfo) -> dict[str, Any]:
    limits = {key: getattr(m, key) for m in field.metadata for key in ("ge", "le") if hasattr(m, key)}
    options = get_args(field.annotation) if "Literal" in str(field.annotation) else ()
    if field.annotation is bool:
        control = "checkbox"
    elif options:
        control = "select"
    elif field.annotation in (int, float):
        control = "number"
    else:
        control = "lines" if "str" in str(get_args(field.annotation)) else "text"
    default = "" if field.is_required() else field.default
    step = "1" if field.annotation is int else "any"
    return {"name": name, "control": control, "help": field.description or "", "options": options,
            "default": default, "required": field.is_required(), "step": step, **limits}  # fmt: skip


async def posted(request: Request) -> Posted:
    """The form, read before the handler's own thread; pydantic checks the values later."""
    if int(request.headers.get("content-length") or 0) > FILE_BYTES + (1 << 20):
        raise HTTPException(413, f"A list may be a file of up to {FILE_BYTES >> 20} MiB.")
    form = await request.form()
    kind = str(form.get("kind", ""))
    if kind not in KINDS:
        raise HTTPException(422, f"Kind must be one of {', '.join(KINDS)}.")
    values: dict[str, Any] = {"kind": kind}
    errors: dict[str, str] = {}
    for field in fields_of(kind):
        name, value = field["name"], str(form.get(field["name"], ""))
        if field["control"] == "checkbox":
            values[name] = bool(value)
        elif field["control"] == "lines":
            try:
                values[name] = [*lines_of(value), *await _file_lines(form, f"{name}_file")]
            except ValueError as error:
                values[name], errors[name] = lines_of(value), str(error)
        elif value or field["required"]:
            values[name] = value
    keep = str(form.get("keep", ""))
    return Posted(kind, str(form.get("name", "")).strip()[:120], values, int(keep) if keep.isdecimal() else 0, errors)


def lines_of(text: str) -> list[str]:
    """Lines without blanks around them, each once; only what a text editor calls a line ends one."""
    lines = (line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return list(dict.fromkeys(line for line in lines if line))


async def _file_lines(form: FormData, name: str) -> list[str]:
    """The lines of an uploaded list. ValueError naming the file and the line."""
    file = form.get(name)
    if not isinstance(file, Uploaded | UploadFile) or not file.filename:
        return []
    body = await file.read(FILE_BYTES + 1)
    if len(body) > FILE_BYTES:
        raise ValueError(f"{file.filename}: larger than {FILE_BYTES >> 20} MiB; split the list into several functions")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body[: error.start].count(b"\n") + 1
        raise ValueError(f"{file.filename}, line {line}: not UTF-8; save the list as UTF-8 text") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{file.filename}, line {line}: holds a NUL character; upload plain text, one term a line")
    return lines_of(text)


def errors_of(invalid: ValidationError) -> dict[str, str]:
    """The first message of each field; '' is the form as a whole."""
    found: dict[str, str] = {}
    for error in invalid.errors():
        found.setdefault(str((*error["loc"], "")[0]), error["msg"].removeprefix("Value error, "))
    return found
