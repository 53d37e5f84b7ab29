"""PubMed abstracts for the demo corpus, classed by what their human indexers wrote.

MeSH headings place an article in the subject tree (C diseases, E diagnostics and therapy, G07
physiology, F the mind, N health care, B organisms …). We read four classes off them, each narrow, and
drop everything that is not plainly one of them: an unclear abstract teaches a latent ranking nothing.

The newer of the two files has no headings yet. There the journal decides, and only together with
the words: a chemistry journal's paper about a drug belongs to no class.
"""

import gzip
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.demo_cleaning import Text, clean_prose, medical_rate


@dataclass(frozen=True)
class Heading:
    """One MeSH descriptor of an article; `major` marks what the article is about."""

    trees: tuple[str, ...]
    major: bool


@dataclass(frozen=True)
class Article:
    pmid: str
    title: str
    abstract: str
    journal: str
    year: str
    headings: tuple[Heading, ...]

    @property
    def text(self) -> str:
        return f"{self.title}\n\n{self.abstract}"


# The paper's definition of medical (arXiv 2601.21571, §5.1) as MeSH subtrees: prefixes of tree numbers.
HUMANS = "B01.050.150.900.649.313.988.400.112.400.400"
MAMMALS = "B01.050.150.900.649"
DISEASE = ("C01", "C04", "C05", "C06", "C07", "C08", "C09", "C10", "C11", "C12", "C14", "C15",
           "C16", "C17", "C18", "C19", "C20", "C23", "C25", "C26")  # fmt: skip
CLINIC = ("E01", "E02", "E03", "E04", "E06", "E07.858", "D26", "D27.505")
PHYSIOLOGY = ("G07", "G08", "G09", "G10", "G11", "G12", "G13", "G14")
ORGANS = ("A01", "A02", "A03", "A04", "A05", "A06", "A07", "A08", "A09", "A10", "A12", "A14",
          "A15", "A16", "A17")  # fmt: skip
# Outside the definition although doctors read it: mind, society, epidemiology, pregnancy, animals' illness.
PREGNANCY = ("G08.686.784.769", "C12.050.703")
NOT_MEDICAL = ("F", "H02", "I", "J", "K", "L", "M", "N", "C22", "C24", "E05.318", *PREGNANCY)
ANY_MEDICAL = ("C", *CLINIC, "D27", "F", "G12", "M", "N", "B04")
LIVING = ("B01", "B02", "B03", "B05", "G02", "G03", "G04", "G05", "G06", "G15", "G16", "A11", "A13",
          "A18", "A19", "A20", "D08", "D12", "D13")  # fmt: skip


def read_tree_numbers(path: Path) -> dict[str, tuple[str, ...]]:
    """MeSH descriptor id -> tree numbers, from the `mesh` asset's table."""
    trees = {}
    with open(path, encoding="utf-8", newline="") as lines:
        for line in lines:
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) > 3 and fields[3]:
                trees[fields[0]] = tuple(fields[3].split("|"))
    return trees


def read_terms(path: Path, under: tuple[str, ...] = ("C",)) -> Iterator[str]:
    """Names and synonyms of the MeSH descriptors under some subtrees: a silver lexicon for `terms` functions."""
    with open(path, encoding="utf-8", newline="") as lines:
        for line in lines:
            _, name, synonyms, trees, *_ = [*line.rstrip("\r\n").split("\t"), "", "", ""]
            if any(tree.startswith(under) for tree in trees.split("|")):
                yield from filter(None, (name, *synonyms.split("|")))


def read_articles(path: Path, trees: dict[str, tuple[str, ...]]) -> Iterator[Article]:
    """English articles with an abstract, one at a time: the whole tree would need gigabytes."""
    with gzip.open(path, "rb") as file:
        for _, element in ET.iterparse(file):
            if element.tag != "PubmedArticle":
                continue
            article = _read_article(element, trees)
            if article:
                yield article
            element.clear()


def _read_article(element: ET.Element, trees: dict[str, tuple[str, ...]]) -> Article | None:
    if "eng" not in {language.text for language in element.iterfind(".//Article/Language")}:
        return None
    parts = ["".join(part.itertext()) for part in element.iterfind(".//Article/Abstract/AbstractText")]
    abstract = clean_abstract(" ".join(parts))
    title = element.find(".//ArticleTitle")
    if not abstract or title is None:
        return None
    headings = []
    for heading in element.iterfind(".//MeshHeading"):
        descriptor = heading.find("DescriptorName")
        if descriptor is not None:
            major = any(name.get("MajorTopicYN") == "Y" for name in heading)
            headings.append(Heading(trees.get(descriptor.get("UI", ""), ()), major))
    return Article(
        pmid=element.findtext(".//PMID", ""),
        title=clean_title("".join(title.itertext())),
        abstract=abstract,
        journal=element.findtext(".//Journal/Title", ""),
        year=element.findtext(".//PubDate/Year") or element.findtext(".//PubDate/MedlineDate", "")[:4],
        headings=tuple(headings),
    )


def clean_title(title: str) -> str:
    """Translated titles come in brackets, some with a note such as (author's transl)."""
    title = re.sub(r"\s*\(author'?s? transl\.?\)", "", clean_prose(title)).strip()
    title = re.sub(r"^\[(.*)\]\.?$", r"\1", title)
    return title if title.endswith((".", "?", "!")) else title + "."


# From the notice's first words to the end, if at most five sentences follow. A bare "(c)" is a list's third item.
NOTICE = re.compile(
    r"\s*(?:(?:Crown )?Copyright\W*(?:\(c\)|©|by|(?:19|20)\d\d)|©|\(c\)\s*(?:19|20)\d\d|Published by Elsevier|"
    r"\(PsycInfo Database|This article (?:is protected|has an associated))[^.]*(?:\.[^.]*){0,4}$",
    re.IGNORECASE,
)


def clean_abstract(abstract: str) -> str:
    """Running text without the publisher's notice and the database's own marks."""
    abstract = clean_prose(abstract).replace("(ABSTRACT TRUNCATED AT 250 WORDS)", "")
    return NOTICE.sub("", abstract).strip()


def class_by_headings(headings: tuple[Heading, ...]) -> str | None:
    """'medicine', 'psychology', 'health-care', 'biology' or None. Only a plain case gets a class.

    Medicine: about humans, with a disease, a diagnosis, a treatment or an organ's working as its
    major topic, and no major topic outside the definition. Psychology (with psychiatry) and health
    care (with its policy, epidemiology and teaching): about humans, and no major topic inside the
    definition. They are written in clinical words, and so are what a labeling rule takes for
    medicine. Biology: something living, no human and nothing medical at all; mammals only where no
    organ's physiology is discussed, for a rat's kidney reads like ours.
    """
    every = [tree for heading in headings for tree in heading.trees]
    if HUMANS in every:
        topics = [heading.trees for heading in headings if heading.major and heading.trees]
        # a heading may sit in a medical and a foreign subtree at once: judge headings, not numbers
        foreign = [all(t.startswith(NOT_MEDICAL) for t in trees) for trees in topics]
        medical = [h for h in headings if any(t.startswith((*DISEASE, *CLINIC, *PHYSIOLOGY)) for t in h.trees)]
        if topics and all(foreign):
            mental = any(t.startswith("F") for trees in topics for t in trees)
            return ("psychology" if mental else "health-care") if len(medical) < 2 else None
        about = any(heading.major for heading in medical)
        apart = any(t.startswith((*PREGNANCY, "F03", "F04")) for t in every)
        return "medicine" if about and len(medical) >= 2 and not (any(foreign) or apart) else None
    if any(tree.startswith(ANY_MEDICAL) for tree in every):
        return None
    if any(t.startswith(MAMMALS) for t in every) and any(t.startswith((*PHYSIOLOGY, *ORGANS)) for t in every):
        return None
    return "biology" if sum(tree.startswith(LIVING) for tree in every) >= 2 else None


CLINICAL_JOURNAL = re.compile(
    r"surg|oncol|cancer|cardio|clinic|medicine|medical|lancet|orthop|radiol|neurol|stroke|ophthalm|anesth|"
    r"anaesth|pediatr|paediatr|dermat|urolog|gastro|diabet|leukemia|lung|respir|nephrol|rheumat|allergy|"
    r"immunol|endocrin|vaccine|infect|patholog|cornea|thromb|hepat|arthro|rhino|dental|odont|haemat|hemat",
    re.IGNORECASE,
)
SCIENCE_JOURNAL = re.compile(
    r"chemi|inorganic|organic letters|dalton|nanosc|nanotech|nano letters|colloid|physics|physical chem|"
    r"materials|langmuir|crystallograph|macromol|soft matter|spectro|waste|hazardous|contaminant|"
    r"water research|environmental (?:management|pollution|monitoring|radio)|marine pollution|chemosphere|"
    r"science of the total|bioresource|technology and culture|food chem|ISA transactions",
    re.IGNORECASE,
)
SOCIETY_JOURNAL = re.compile(
    r"psycholog|cognition|personality|social|adolescence|policy|equity|health services|sociol|econom|"
    r"safety research|psycholinguist|appetite|educat|history|population data|ethics|american psychologist|"
    r"child development|infant behav|behavioural processes|human movement",
    re.IGNORECASE,
)
BIOLOGY_JOURNAL = re.compile(
    r"plant|ecolog|botan|zoolog|insect|evolution|phytol|fish|poultry|animal (?:sci|breed|ecol)|genomics|"
    r"genetics$|molecular ecol|heredity|experimental biology$|bacteriol|microbiology$|invertebrate|"
    r"cell science|developmental biology|biochemistry$|structure|molecular biology$|industrial micro|"
    r"journal of biotechnology|pest management|bioinspiration|photochemi",
    re.IGNORECASE,
)
# A clinical word in the title takes a journal out of the retain classes, these out of medicine.
OTHER_FIELD = re.compile(
    r"psych|public health|educat|nurs|policy|epidemiol|pregnan|obstet|gyn[ae]*col|perinat|matern|veterin|"
    r"health services|animal|addict|sport|statist|ethics|law|legal|forensic|social|food|plant|comparative|fish|"
    r"aging|cosmet|aesthetic|comput|informat|physics|chemi|visualized|methods",
    re.IGNORECASE,
)
BENCH_WORD = re.compile(
    r"\b(?:patients?|clinical\w*|diseases?|cancers?|tumou?rs?|therap\w+|drugs?|mice|mouse|rats?|"
    r"pathogen\w*|infect\w*|virus\w*|viral|COVID\S*|medic\w+|pharma\w+|antibod\w+|immun\w+|toxic\w*|"
    r"disorders?|depress\w+|anxiety|symptom\w*|treatments?|anti(?:biotic|bacterial|microbial)\w*|gonorrh\w*|amyloid\S*|"
    r"hematopoie\w+|stem cells?)\b",
    re.IGNORECASE,
)


def bench_rate(text: str) -> float:
    """Words per word that a laboratory uses when its work is for medicine after all."""
    return len(BENCH_WORD.findall(text)) / max(1, len(text.split()))


def class_by_journal(article: Article) -> str | None:
    """'medicine', 'biology', 'science', 'society' or None, from the journal and the words.

    Retain classes must be free of medical vocabulary (the journal alone lets through drug design
    and hospital psychology); medicine must be full of it.
    """
    journal, text = article.journal, article.text
    rate = medical_rate(text)
    if CLINICAL_JOURNAL.search(journal):
        return "medicine" if rate > 0.04 and not OTHER_FIELD.search(journal) else None
    if SOCIETY_JOURNAL.search(journal):
        return "society" if rate < 0.01 else None
    bench = bench_rate(text)
    if SCIENCE_JOURNAL.search(journal):
        return "science" if rate < 0.005 and bench < 0.004 else None
    if BIOLOGY_JOURNAL.search(journal) and "orensic" not in journal:
        return "biology" if rate < 0.008 and bench < 0.008 else None
    return None


def classify(article: Article) -> str | None:
    if not article.headings:
        return class_by_journal(article)
    kind = class_by_headings(article.headings)
    # indexers file an antibiotic under its chemistry alone: the words tell
    return None if kind == "biology" and bench_rate(article.text) > 0.015 else kind


def read_pubmed(assets: Path) -> Iterator[tuple[str | None, Text]]:
    """Every English abstract with its class; None is one that is not plainly anything."""
    trees = read_tree_numbers(assets / "mesh" / "mesh.tsv")
    for name in ("pubmed-1977.xml.gz", "pubmed-2021.xml.gz"):
        for article in read_articles(assets / "pubmed" / name, trees):
            by = "mesh" if article.headings else "journal"
            meta = {"pmid": article.pmid, "journal": article.journal, "year": article.year, "classed_by": by}
            yield classify(article), Text(article.text, "pubmed", meta)
