"""`tokensieve account`: the first admin, and whoever has lost their password, get in by the machine's own terminal."""

import os
import sys
from typing import Annotated

import typer

from app import accounts
from app.db import migrate, reading, session_factory
from app.queries import project_by_slug
from app.settings import settings

cli = typer.Typer(no_args_is_help=True, help="Accounts of a team.")


def _asked_password() -> str:
    """From TOKENSIEVE_PASSWORD (for scripts), else typed twice; never an argument, which others could see."""
    if given := os.environ.get("TOKENSIEVE_PASSWORD"):
        return given
    if not sys.stdin.isatty():
        raise ValueError("set TOKENSIEVE_PASSWORD, or run this in a terminal to type the password")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


@cli.command()
def add(
    name: str,
    role: Annotated[str, typer.Option(help="admin, curator or annotator.")] = "annotator",
    project: Annotated[list[str] | None, typer.Option(help="Project this person may see; may be repeated.")] = None,
) -> None:
    """Make an account. The password is asked for, or taken from TOKENSIEVE_PASSWORD."""
    accounts.check_name(name), accounts.check_role(role)
    password = accounts.check_password(_asked_password())
    migrate(settings())
    with session_factory(settings()).begin() as session:
        found = {slug: project_by_slug(session, slug.lower()) for slug in project or []}
        if missing := [slug for slug, row in found.items() if row is None]:
            raise ValueError(f"no project {missing[0]!r}")
        accounts.add_account(session, name, role, password, [row.id for row in found.values() if row])
    print(f"{name}: {role}")


@cli.command("password")
def set_password(name: str) -> None:
    """Set a new password; logs this person out everywhere and revokes their tokens."""
    password = accounts.check_password(_asked_password())
    migrate(settings())
    with session_factory(settings()).begin() as session:
        account = accounts.account_of(session, name)
        if account is None:
            raise ValueError(f"no account {name!r}; `tokensieve account list` shows them")
        accounts.set_password(session, account, password)
    print(f"{name}: new password set")


@cli.command("list")
def list_() -> None:
    """Name, role and state of every account."""
    migrate(settings())
    with reading(session_factory(settings())) as session:
        for account in accounts.accounts(session):
            print(f"{account.name}\t{account.role}\t{'closed' if account.disabled_at else 'open'}")
