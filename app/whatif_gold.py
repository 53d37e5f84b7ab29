"""Gold as the what-if asks for it: the annotated words of a project, lined up with its store once.

Only documents of train and validation: a rule is chosen by looking at these figures.
"""

from collections import OrderedDict
from threading import Lock

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.gold import CHOOSING, gold_texts
from app.models import Annotation, Document
from labeling.gold_words import GoldWords, gold_words
from labeling.store import Store

_cache: OrderedDict[tuple[Store, int, int], GoldWords] = OrderedDict()
_lock = Lock()


def gold_of(session: Session, project_id: int, store: Store) -> GoldWords | None:
    """None while nobody has finished a document that the store holds."""
    key = (store, project_id, newest_event(session, project_id))
    with _lock:
        known = _cache.get(key)
    if known is None:
        known = gold_words(store, list(gold_texts(session, project_id, CHOOSING)))
        with _lock:
            _cache[key] = known
            while len(_cache) > 4:
                _cache.popitem(last=False)
    return known if known.documents else None


def newest_event(session: Session, project_id: int) -> int:
    """Id of the newest annotation event: as long as it stays, so does gold. 0 if there is none."""
    mine = Annotation.document_id.in_(select(Document.id).where(Document.project_id == project_id))
    return session.scalar(select(func.max(Annotation.id)).where(mine)) or 0
