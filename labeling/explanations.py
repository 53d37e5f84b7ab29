"""A language model's opinion of a latent, through any OpenAI-compatible endpoint. Metadata, never a gate.

One request shows examples and promoted tokens and asks for a caption and whether it fits the
concept; the examples are the evidence for both, so no judgement rests on a caption. A second asks,
given the caption alone, which of ten unseen passages the latent fires on (detection, as Delphi
scores captions). METHOD: a ratio screen matters more than captions.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import numpy as np

from labeling.artifacts import sha256_json
from labeling.events import Progress
from labeling.evidence import Example, Firings, examples
from labeling.store import Store

SHOWN, TESTED = 12, 5  # examples in the first request; firing and silent passages each in the second
AROUND = 16  # tokens on each side of a passage's peak
ANSWER_TOKENS = 160
TRIES = 4
JUDGEMENTS = ("yes", "no", "unsure")
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Endpoint:
    """Where to ask. The key travels in one header and is neither stored nor logged."""

    url: str  # base, such as http://127.0.0.1:8000/v1
    model: str
    key: str = ""
    price_in: float = 0.0  # per million tokens
    price_out: float = 0.0
    timeout: float = 60.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("TOKENSIEVE_EXPLAIN_URL is not an http(s) address; give the base, such as https://host/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "TOKENSIEVE_EXPLAIN_URL holds credentials or a query; put the key in TOKENSIEVE_EXPLAIN_KEY"
            )
        if not self.model:
            raise ValueError("TOKENSIEVE_EXPLAIN_MODEL is not set; name the model the endpoint serves")

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass(frozen=True)
class Question:
    """Everything about one latent that is sent; its hash is the cache's key."""

    latent: int
    evidence: Messages
    passages: list[str]  # for detection, marks left out
    fires: list[bool]

    def sha256(self, model: str) -> str:
        return sha256_json([model, self.evidence, self.passages, self.fires])

    @property
    def characters(self) -> int:
        return sum(len(m["content"]) for m in self.evidence) + sum(map(len, self.passages)) + 900


@dataclass(frozen=True)
class Explanation:
    latent: int
    text: str
    judgement: str  # yes | no | unsure: does it stand for the concept
    score: float | None  # share of the ten passages told right; None where there were too few
    tokens_in: int
    tokens_out: int
    sha256: str


@dataclass(frozen=True)
class Reply:
    text: str
    tokens_in: int
    tokens_out: int


def question(
    store: Store,
    latent: int,
    text_of: Callable[[str], str],
    concept: str,
    promoted: Sequence[str] = (),
) -> Question:
    """The requests for one latent: strongest and ordinary examples shown, others kept for the test."""
    firings = Firings.of(store, latent)
    top = examples(firings, text_of, n=SHOWN // 2 + 3)
    usual = examples(firings, text_of, n=SHOWN // 2 + 2, quantile=0.6)
    shown, unseen = top[::2] + usual[::2], top[1::2] + usual[1::2]
    peak = max((e.value for e in top), default=1.0)
    lines = "\n".join(f"{i}. {marked(e, peak)}" for i, e in enumerate(shown, 1))
    asked = (
        f"Concept: {concept}\n\nPassages. Tokens on which the unit fires are in «», followed by strength 1 to 9.\n{lines}\n"
        + (f"\nTokens whose probability it raises: {', '.join(map(repr, promoted))}\n" if promoted else "")
        + '\nAnswer with one JSON object: {"concept": "yes" | "no" | "unsure", "explanation": "at most 20 words"}. '
        "concept: do the passages show that the unit stands for the concept, as it is defined?"
    )
    told = "You study one unit of a sparse autoencoder that reads a language model. Say what it fires on, from the evidence."
    passages = [(plain(e), True) for e in unseen[:TESTED]]
    passages += [(text, False) for text in silent(firings, text_of, len(passages))]
    order = np.random.default_rng(latent).permutation(len(passages))
    mixed = [passages[i] for i in order]
    return Question(
        latent,
        [{"role": "system", "content": told}, {"role": "user", "content": asked}],
        [text for text, _ in mixed],
        [fires for _, fires in mixed],
    )


def marked(example: Example, peak: float) -> str:
    out, at = [], 0
    for start, end, value in example.tokens:
        if value > 0 and start >= at:
            out += [example.text[at:start], f"«{example.text[start:end]}»{max(1, min(9, round(9 * value / peak)))}"]
            at = end
    return " ".join(("".join(out) + example.text[at:]).split())


def plain(example: Example) -> str:
    return " ".join(example.text.split())


def silent(firings: Firings, text_of: Callable[[str], str], n: int) -> list[str]:
    """Passages of train documents on which the latent does not fire; the same each time."""
    store, found = firings.store, list[str]()
    train = np.flatnonzero(store.doc_in_split("train") & (np.diff(store.doc_indptr) > 0))
    random = np.random.default_rng(len(firings.tokens))
    for doc in random.choice(train, 20 * n) if len(train) else ():
        tokens = store.document(int(doc))
        begin = int(random.integers(tokens.start, tokens.stop))
        end = min(tokens.stop, begin + 2 * AROUND)
        low, high = np.searchsorted(firings.tokens, [begin, end])
        if low == high:
            text = text_of(store.keys[int(doc)])
            found.append(" ".join(text[int(store.starts[begin]) : int(store.ends[begin:end].max())].split()))
        if len(found) == n:
            break
    return found


def detection(explanation: str, passages: Sequence[str]) -> Messages:
    lines = "\n".join(f"{i}. {text}" for i, text in enumerate(passages, 1))
    asked = (
        f"A unit fires on: {explanation}\n\nPassages:\n{lines}\n\n"
        'On which of them does it fire at least once? Answer with one JSON object: {"fires": [numbers]}.'
    )
    return [{"role": "user", "content": asked}]


class Chat:
    """The chat-completions protocol, with patience for busy servers."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self.client = httpx.Client(headers=headers, timeout=endpoint.timeout, follow_redirects=False)
        self.wait = 1.0

    def ask(self, messages: Messages) -> Reply:
        """Raises ValueError saying what the endpoint answered and what to change."""
        body = {"model": self.endpoint.model, "messages": messages, "temperature": 0, "max_tokens": ANSWER_TOKENS}
        url = self.endpoint.url.rstrip("/") + "/chat/completions"
        for left in reversed(range(TRIES)):
            try:
                response = self.client.post(url, json=body)
            except httpx.HTTPError as error:
                problem = f"does not answer ({type(error).__name__}); is it running?"
            else:
                if response.status_code == 200:
                    return _reply(url, response)
                problem = f"answered {response.status_code}: {response.text[:200]!r}"
                if response.status_code not in (408, 429) and response.status_code < 500:
                    break
            if left:
                time.sleep(self.wait * 2 ** (TRIES - 1 - left))
        raise ValueError(f"{url} {problem}. Check TOKENSIEVE_EXPLAIN_URL, _MODEL and _KEY")


def _reply(url: str, response: httpx.Response) -> Reply:
    try:
        said = response.json()
        text, usage = said["choices"][0]["message"]["content"], said.get("usage") or {}
        return Reply(str(text), int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError(f"{url} does not speak the chat-completions protocol: {response.text[:200]!r}") from None


def explain_one(chat: Chat, asked: Question) -> Explanation:
    first = chat.ask(asked.evidence)
    text, judgement = parsed(first.text)
    score, tokens_in, tokens_out = None, first.tokens_in, first.tokens_out
    if text and len(set(asked.fires)) == 2:
        second = chat.ask(detection(text, asked.passages))
        tokens_in, tokens_out = tokens_in + second.tokens_in, tokens_out + second.tokens_out
        score = detected(second.text, asked.fires)
    return Explanation(asked.latent, text, judgement, score, tokens_in, tokens_out, asked.sha256(chat.endpoint.model))


def _object(text: str) -> dict[str, object]:
    """The first JSON object of an answer: models wrap it in words or fences."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        value = json.loads(found[0]) if found else {}
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


def parsed(text: str) -> tuple[str, str]:
    """(explanation, judgement). An answer that is not the asked JSON is its own explanation, judged unsure."""
    value = _object(text)
    explanation = " ".join(str(value.get("explanation") or text).split())[:300]
    judgement = str(value.get("concept") or "unsure").lower()
    return explanation, judgement if judgement in JUDGEMENTS else "unsure"


def detected(text: str, fires: Sequence[bool]) -> float | None:
    """Share of passages told right; None if the answer cannot be read."""
    said = _object(text).get("fires")
    if not isinstance(said, list) or not all(isinstance(n, int) for n in said):
        return None
    return sum((i in said) == truth for i, truth in enumerate(fires, 1)) / len(fires)


def explain(questions: Sequence[Question], endpoint: Endpoint, parallel: int = 4) -> Iterator[Progress | Explanation]:
    """Ask about each latent, a few at a time. Yields twice a second at least, so a cancel is noticed."""
    chat = Chat(endpoint)
    pool = ThreadPoolExecutor(parallel)
    try:
        yield Progress(0, len(questions), "latents", "explain")
        pending = {pool.submit(explain_one, chat, asked) for asked in questions}
        while pending:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            yield Progress(len(questions) - len(pending), len(questions), "latents", "explain")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        chat.client.close()
