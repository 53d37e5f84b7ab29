"""Wiki markup to prose, by taking away: templates, tables, footnotes, links' machinery.

Not a parser. It keeps paragraphs only, which is what a labeling corpus wants of Wikipedia.
"""

import re
from collections.abc import Iterator

from app.demo_cleaning import clean_prose

# Sections that hold lists and references, not prose.
APPENDIX = re.compile(
    r"^(?:see also|references?|notes?|footnotes?|external links|further reading|bibliography|sources|"
    r"citations|works cited|gallery|discography|filmography|publications|selected .*|list of .*)$",
    re.IGNORECASE,
)
INNERMOST_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
INNERMOST_TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
FILE_LINK = re.compile(r"\[\[(?:File|Image|Category|[a-z]{2,3}):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", re.IGNORECASE)


def sections(markup: str, least_words: int = 60, most_words: int = 1500) -> Iterator[tuple[str, str]]:
    """(heading, prose) of each second-level section that is long enough to be a document."""
    parts = re.split(r"^==\s*([^=].*?)\s*==\s*$", _without_machinery(markup), flags=re.MULTILINE)
    for heading, body in zip(["", *parts[1::2]], parts[0::2], strict=True):
        if APPENDIX.match(heading):
            continue
        text = _paragraphs(body)
        if least_words <= len(text.split()) <= most_words:
            yield heading, text


def _without_machinery(text: str) -> str:
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<ref[^<>]*/>", "", text)
    text = re.sub(r"<ref[^<>]*>.*?</ref>", "", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(
        r"<(math|gallery|timeline|code|pre|source|syntaxhighlight|score)\b[^<>]*>.*?</\1>",
        "", text, flags=re.DOTALL | re.IGNORECASE,
    )  # fmt: skip
    for pattern in (INNERMOST_TEMPLATE, INNERMOST_TABLE, FILE_LINK):
        count = 1
        while count:  # from the inside out
            text, count = pattern.subn("", text)
    text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[(?:https?:)?//\S+ ([^\]]*)\]", r"\1", text)
    text = re.sub(r"\[(?:https?:)?//\S+\]", "", text)
    return re.sub(r"'{2,}", "", text)


def _paragraphs(body: str) -> str:
    """Lines that are running text; list items, table rests and sub-headings go."""
    kept = []
    for line in body.split("\n"):
        line = re.sub(r"\s?\([\s;,]*\)", "", line).strip()  # brackets a template left empty
        if len(line.split()) >= 8 and line[0] not in "*#:;|!=<{}[" and "{{" not in line and "|" not in line:
            kept.append(re.sub(r"\s+([,.;:])", r"\1", line.replace("( ", "(").replace("(; ", "(").replace("(, ", "(")))
    return clean_prose("\n".join(kept))
