"""Members of a team: accounts, invites, passwords, tokens. Every credential can be taken back at once."""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

from pwdlib import PasswordHash
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from app.models import Account, ApiToken, Invite, LoginFailure, Membership, Project, now
from app.roles import OWNER, ROLES, SCOPES, Viewer
from app.security import close_sessions, open_session, token_hash
from app.settings import Settings

TRIES, TRY_MINUTES = 10, 15
INVITE_DAYS = 7
TOKEN_DAYS = 90  # the longest a token may live
SHORTEST, LONGEST = 12, 200
RESERVED = {OWNER, "demo", "demo-a", "demo-b", "project"}  # authors of labels that are nobody's own


class TooManyTries(Exception):
    """Wrong passwords for this name have used up its tries for now."""


@lru_cache
def hasher() -> PasswordHash:
    return PasswordHash.recommended()  # argon2id


@lru_cache
def _nobodys() -> str:
    """Checked when there is no such account, so that the answer takes as long as for a wrong password."""
    return hasher().hash(secrets.token_urlsafe())


def check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,79}", name):
        raise ValueError(
            "a name has letters, digits and . _ @ -, begins with a letter or digit, and is at most 80 long"
        )
    if name.lower() in RESERVED:
        raise ValueError(f"{name!r} stands for the program itself; choose another name")
    return name


def check_password(password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise ValueError(f"a password has {SHORTEST} to {LONGEST} characters")
    return password


def check_role(role: str) -> str:
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}")
    return role


def account_of(session: Session, name: str) -> Account | None:
    return session.scalar(select(Account).where(Account.name == name))


def accounts(session: Session) -> list[Account]:
    return list(session.scalars(select(Account).order_by(Account.name)))


def projects_by_account(session: Session) -> dict[int, list[Project]]:
    query = select(Membership.account_id, Project).join(Project, Project.id == Membership.project_id)
    found: dict[int, list[Project]] = {}
    for account_id, project in session.execute(query.order_by(Project.id)):
        found.setdefault(account_id, []).append(project)
    return found


def add_account(session: Session, name: str, role: str, password: str, projects: Iterable[int] = ()) -> Account:
    """Raises ValueError if the name is taken or anything is not as it must be."""
    check_name(name), check_role(role), check_password(password)
    taken = select(Account.id).where(func.lower(Account.name) == name.lower())
    if session.scalar(taken) is not None:
        raise ValueError(f"there is an account {name!r} already")
    account = Account(name=name, role=role, password_hash=hasher().hash(password))
    session.add(account)
    session.flush()
    join(session, account, projects)
    return account


def join(session: Session, account: Account, projects: Iterable[int]) -> None:
    """Make these, and no others, the projects this account may see."""
    session.execute(delete(Membership).where(Membership.account_id == account.id))
    session.add_all(Membership(account_id=account.id, project_id=id_) for id_ in sorted(set(projects)))
    session.flush()


def members(session: Session, project_id: int) -> list[Account]:
    """Who may label in a project: its members and every admin; not those whose account is closed."""
    mine = select(Membership.account_id).where(Membership.project_id == project_id)
    query = select(Account).where(Account.disabled_at.is_(None), (Account.id.in_(mine)) | (Account.role == "admin"))
    return list(session.scalars(query.order_by(Account.name)))


# Passwords


def log_in(sessions: sessionmaker[Session], settings: Settings, name: str, password: str) -> str | None:
    """A session's cookie, or None. Raises TooManyTries.

    A try is counted before the password is looked at, so that a flood of them gets no further; the
    slow hash is computed while no transaction is open.
    """
    name = name[:80]
    since = now() - timedelta(minutes=TRY_MINUTES)
    with sessions.begin() as session:
        session.execute(delete(LoginFailure).where(LoginFailure.created_at < since))
        session.add(LoginFailure(name=name))
        session.flush()
        tries = session.scalar(select(func.count()).select_from(LoginFailure).where(LoginFailure.name == name)) or 0
        account = account_of(session, name)
    if tries > TRIES:
        raise TooManyTries
    right = hasher().verify(password[: LONGEST + 1], account.password_hash if account else _nobodys())
    if account is None or not right or account.disabled_at is not None:
        return None
    with sessions.begin() as session:
        session.execute(delete(LoginFailure).where(LoginFailure.name == name))
        return open_session(session, settings, account.name)


def set_password(session: Session, account: Account, password: str) -> None:
    """Every browser of this person's is logged out, and every token is worth nothing."""
    account.password_hash = hasher().hash(check_password(password))
    _revoke_all(session, account)


def close(session: Session, account: Account) -> None:
    """Nobody gets in by this account any more. Its labels stay. Raises ValueError for the last admin's."""
    if account.role == "admin" and _is_last_admin(session, account):
        raise ValueError(f"{account.name} is the last admin; make somebody else one first")
    account.disabled_at = now()
    _revoke_all(session, account)


def set_role(session: Session, account: Account, role: str) -> None:
    if account.role == "admin" and check_role(role) != "admin" and _is_last_admin(session, account):
        raise ValueError(f"{account.name} is the last admin; make somebody else one first")
    account.role = check_role(role)


def _is_last_admin(session: Session, account: Account) -> bool:
    others = (Account.role == "admin", Account.disabled_at.is_(None), Account.id != account.id)
    return session.scalar(select(Account.id).where(*others).limit(1)) is None


def _revoke_all(session: Session, account: Account) -> None:
    close_sessions(session, account.name)
    alive = (ApiToken.account_id == account.id, ApiToken.revoked_at.is_(None))
    session.execute(update(ApiToken).where(*alive).values(revoked_at=now()))


# Invites


def invite(session: Session, name: str, role: str, projects: Iterable[int], by: str) -> str:
    """A path that lets its first visitor choose a password for a new account. Raises ValueError."""
    check_name(name), check_role(role)
    if account_of(session, name) is not None:
        raise ValueError(f"there is an account {name!r} already")
    return _link(session, name, role, sorted(set(projects)), by)


def reset_link(session: Session, account: Account, by: str) -> str:
    """A path to a new password for an account there is; the old one is good until then."""
    return _link(session, account.name, account.role, [], by)


def _link(session: Session, name: str, role: str, projects: list[int], by: str) -> str:
    """Only the newest link for a name works: an older one might lie in a mailbox."""
    withdraw_invites(session, name)
    token = secrets.token_urlsafe(32)
    until = now() + timedelta(days=INVITE_DAYS)
    session.add(
        Invite(token_hash=token_hash(token), name=name, role=role, projects=projects, invited_by=by, expires_at=until)
    )
    session.flush()
    return f"/login/invite/{token}"


def open_invite(session: Session, token: str) -> Invite | None:
    fresh = (Invite.token_hash == token_hash(token), Invite.used_at.is_(None), Invite.expires_at > now())
    return session.scalar(select(Invite).where(*fresh))


def open_invites(session: Session) -> list[Invite]:
    return list(session.scalars(select(Invite).where(Invite.used_at.is_(None), Invite.expires_at > now())))


def withdraw_invites(session: Session, name: str) -> None:
    session.execute(update(Invite).where(Invite.name == name, Invite.used_at.is_(None)).values(used_at=now()))


def accept_invite(session: Session, settings: Settings, token: str, password: str) -> str:
    """Spend the invite; the new session's cookie. Raises ValueError; it stays good if only the password was not."""
    found = open_invite(session, token)
    if found is None:
        raise ValueError("this link was used, withdrawn or has expired; ask for another")
    check_password(password)
    spent = session.execute(update(Invite).where(Invite.id == found.id, Invite.used_at.is_(None)).values(used_at=now()))
    if spent.rowcount != 1:  # type: ignore[attr-defined]
        raise ValueError("this link was used, withdrawn or has expired; ask for another")
    account = account_of(session, found.name)
    if account is not None:
        set_password(session, account, password)
    else:
        known = set(session.scalars(select(Project.id)))
        account = add_account(session, found.name, found.role, password, known.intersection(found.projects))
    return open_session(session, settings, account.name)


# Tokens


def make_token(session: Session, viewer: Viewer, name: str, scope: str, days: int) -> str:
    """A bearer token with its maker's role; shown once. Raises ValueError."""
    account = account_of(session, viewer.name)
    if account is None:
        raise ValueError("tokens belong to accounts; in solo mode use the command line")
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}")
    if not 1 <= days <= TOKEN_DAYS:
        raise ValueError(f"a token lives 1 to {TOKEN_DAYS} days")
    if not name.strip():
        raise ValueError("name the token after what will use it")
    token = f"ts_{secrets.token_urlsafe(32)}"
    until: datetime = now() + timedelta(days=days)
    session.add(
        ApiToken(
            token_hash=token_hash(token), account_id=account.id, name=name.strip()[:80], scope=scope, expires_at=until
        )
    )
    session.flush()
    return token


def tokens_of(session: Session, name: str) -> list[ApiToken]:
    query = select(ApiToken).join(Account, Account.id == ApiToken.account_id).where(Account.name == name)
    alive = (ApiToken.revoked_at.is_(None), ApiToken.expires_at > now())
    return list(session.scalars(query.where(*alive).order_by(ApiToken.id)))


def revoke_token(session: Session, name: str, token_id: int) -> bool:
    """Whether this person had such a token."""
    token = next((token for token in tokens_of(session, name) if token.id == token_id), None)
    if token is not None:
        token.revoked_at = now()
    return token is not None
