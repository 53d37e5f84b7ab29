"""Classifiers of different backbones beside one another: a Table 1 of our own (METHOD, step 2).

    python -m benchmarks.backbones PROJECT NAME… --gold FILE [--documents 200]

NAMEs are classifiers of the project, all of them trained on its weak labels (`tokensieve train`). Each
is scored on the weak labels of the test split, which no training and no threshold has seen, and on
annotated documents, both word by word with intervals over documents. Speed is whole `predict`, tokens
a CPU second with one thread, in this process, rounds in turn.
"""

import argparse
import time

import torch
from sqlalchemy import select

from app import models as m
from app.artifacts import folder_of
from app.cli import find_project, opened
from app.db import reading
from app.steps import weak_documents
from labeling.documents import Document, must, read
from labeling.evaluate import Scores, score
from labeling.predict import LoadedClassifier, load_classifier, predict

ROUNDS = 3


def scored(classifier: LoadedClassifier, documents: list[Document]) -> Scores:
    return score((p.to_json(classifier.threshold) for p in predict(classifier, documents)), documents)


def speed(classifiers: dict[str, LoadedClassifier], documents: list[Document]) -> dict[str, float]:
    """Tokens of each classifier's own tokenizer a CPU second, its best of the rounds."""
    best = dict.fromkeys(classifiers, 0.0)
    for _ in range(ROUNDS):
        for name, classifier in classifiers.items():
            begin = time.process_time()
            tokens = sum(len(p) for p in predict(classifier, documents))
            best[name] = max(best[name], tokens / (time.process_time() - begin))
    return best


def with_interval(scores: Scores) -> str:
    low, high = scores.intervals["f1"] or (float("nan"),) * 2
    return f"{scores.f1 or 0:.3f} [{low:.3f}, {high:.3f}]"


def worst_family(scores: Scores) -> str:
    """The retain family with the highest false-positive rate."""
    rates = {n: f.fpr for n, f in scores.families.items() if f.side == "retain" and f.fpr is not None}
    name = max(rates, key=rates.__getitem__)
    return f"{name} {rates[name]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--gold", required=True)
    parser.add_argument("--documents", type=int, default=200, help="to time on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings, sessions = opened()
    classifiers: dict[str, LoadedClassifier] = {}
    with reading(sessions) as session:
        project = find_project(session, arguments.project).id
        rows = {c.name: c for c in session.scalars(select(m.Classifier).where(m.Classifier.project_id == project))}
        for name in arguments.names:
            folder = folder_of(settings, session.get_one(m.Artifact, rows[name].artifact_id))
            classifiers[name] = load_classifier(folder)
        label_sets = {rows[name].label_set_id for name in arguments.names}
        assert len(label_sets) == 1, f"these were trained on different label sets: {label_sets}"
    held_out = [d for d, split in weak_documents(settings, sessions, label_sets.pop()) if split == "test"]
    gold = list(must(read(arguments.gold)))
    rates = speed(classifiers, held_out[: arguments.documents])
    print(
        "| | parameters | tokens/s | F1, held-out weak labels | F1, annotated | FPR, annotated | worst retain family |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, classifier in classifiers.items():
        weak, human = scored(classifier, held_out), scored(classifier, gold)
        size = sum(p.numel() for p in classifier.model.parameters())
        print(
            f"| {name} | {size / 1e6:.1f}M | {rates[name]:,.0f} | {with_interval(weak)} | {with_interval(human)} "
            f"| {human.fpr or 0:.3f} | {worst_family(human)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
