"""What makes a piece of downloaded text a document: cleaning, and two judgements about it.

Kept free of any one source, so that each rule is a line that a test can pin.
"""

import hashlib
import html
import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache


@dataclass(frozen=True)
class Text:
    """A cleaned document before it has a family: where it came from, and what is known of it."""

    text: str
    source: str
    meta: dict[str, str] = field(default_factory=dict)


# Windows' quotes and dashes that were read as control characters.
WINDOWS_MARKS = {0x91: "‘", 0x92: "’", 0x93: "“", 0x94: "”", 0x95: "•", 0x96: "–", 0x97: "—", 0x85: "…", 0xA0: " "}
# Controls, soft hyphens, zero-width and direction marks, lone surrogates, private use.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ud800-\uf8ff]"
)
TAG = re.compile(r"</?[A-Za-z][^<>]{0,80}>")
# Lines that a page's machinery wrote around the text.
DEBRIS = re.compile(
    r"(?:copyright\b|©|all rights reserved|enlarge this image|media playback is not supported|share this|read more\b|"
    r"advertisement\b|click here|sign up|subscribe|follow us|image copyright|.{0,60}getty images$|photo:|related:|"
    r"share\.? *$)",
    re.IGNORECASE,
)


def clean_prose(text: str) -> str:
    """One space between words, no control characters, no HTML left over; paragraphs stay."""
    text = html.unescape(unicodedata.normalize("NFC", text)).translate(WINDOWS_MARKS)
    text = INVISIBLE.sub("", TAG.sub("", text)).replace("Â£", "£").replace("[citation needed]", "")
    paragraphs = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph and not DEBRIS.match(paragraph))


def end_sentence(text: str) -> str:
    """Some samplers split on full stops and lost the last one."""
    text = text.rstrip()
    return text + "." if text and text[-1].isalnum() else text


COMMON_WORDS = frozenset(
    """the of and to in a is that for it as was with be by on not he i this are or his from at which but have an
    had they you were their one all we can her has there been if more when will would who so no""".split()  # noqa: SIM905
)
SENTENCE_END = re.compile(r"[.!?][\"'”’)]?(?:\s|$)")


def is_prose(text: str, least_words: int = 40) -> bool:
    """Ordinary running English: long enough, mostly letters, sentences of a usual length."""
    words = text.split()
    if len(words) < least_words:
        return False
    letters = (sum(map(str.isalpha, text)) + sum(map(str.isspace, text))) / len(text)
    ascii_share = sum(map(str.isascii, text)) / len(text)
    sentences = max(1, len(SENTENCE_END.findall(text)))
    common = sum(word.lower() in COMMON_WORDS for word in words) / len(words)
    return letters > 0.85 and ascii_share > 0.93 and len(words) / sentences < 60 and common > 0.18


# Words that ordinary prose rarely needs and medical prose can't do without. Only used to keep
# medical pages out of general families (and other pages out of pubmed-medicine), never as labels.
MEDICAL = re.compile(
    r"patients?|clinical(?:ly)?|clinicians?|diseases?|symptom\w*|syndromes?|diagnos\w+|prognos\w+|"
    r"therap(?:y|ies|eutic\w*)|surg(?:ery|eries|ical\w*|eons?)|cancers?|carcinom\w+|tumou?rs?|metasta\w+|drugs?|"
    r"dos(?:e|es|age)|antibiotic\w*|infect\w+|medicines?|medications?|medical(?:ly)?|hospital\w*|physicians?|"
    r"vaccin\w+|virus(?:es)?|viral|chronic|acute|inflammat\w+|diabet\w+|hypertens\w+|blood|plasma|serum|kidneys?|renal|"
    r"livers?|hepatic|lungs?|pulmonary|cardiac|cardiovascular|coronary|arter(?:y|ies|ial)|veins?|venous|lesions?|"
    r"immun\w+|antibod(?:y|ies)|pathogen\w*|patholog\w+|disorders?|pain|fever|anti\w{4,}(?:ic|al|ant)|"
    r"\w{3,}(?:itis|emia|ectomy|otomy|oscopy|opathy|plasty)|"
    r"\w*(?:fibr|scler|thromb|necr|sten|cirrh|tubercul|stomat|neur|psych|acid|cyan|kyph|scoli|por)osis|"
    r"insulin|steroids?|nerves?|neurolog\w+|seizures?|epilep\w+|strokes?|biops\w+|transplant\w*|hiv|aids|covid|"
    r"pharma\w+|nurses?|doctors?|toxicity|contracepti\w+|pregnan\w+|illness\w*|muscles?"
)
WORD = re.compile(r"[a-z]+")


@lru_cache(maxsize=200_000)
def _is_medical(word: str) -> bool:
    return MEDICAL.fullmatch(word) is not None


def medical_rate(text: str) -> float:
    """Share of medical words, from 0 to 1."""
    words = WORD.findall(text.lower())
    return sum(map(_is_medical, words)) / max(1, len(words))


def fingerprint(text: str) -> str:
    """The text's identity for deduplication: its letters and digits, case folded."""
    return hashlib.sha256("".join(re.findall(r"\w+", text.casefold())).encode()).hexdigest()


def estimate_tokens(text: str) -> int:
    """SmolLM2 tokens, near enough for a budget."""
    return round(1.4 * len(text.split()))
