"""F1 of a probe as more of its training labels are turned over, against the noisy labels themselves.

    python -m benchmarks.noise PROJECT [--backbone minilm] [--layer 4] [--tokens 60000] [--gold FILE]

The newest weak labels of a project are taken as the truth; 0 to 50% of the train split's tokens are
flipped at random. The states of the frozen backbone are computed once and only the logistic
regression is fitted anew, so every rate sees the same text. Thresholds are the best on validation.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from sqlalchemy import select

from app import models as m
from app.backbones import located
from app.cli import find_project, opened
from app.db import reading
from app.steps import weak_documents
from labeling.curves import best_threshold
from labeling.documents import must, read
from labeling.evaluate import score
from labeling.events import value_of
from labeling.examples import Labelled, TrainConfig, labelled_windows, take
from labeling.predict import predict
from labeling.probe import features, labels_of, logistic, sample, set_probe
from labeling.probe import reading as cut_to
from labeling.train import untrained

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5)


def f1(flagged: np.ndarray, y: np.ndarray) -> float:
    return 2 * float((flagged & y).sum()) / max(1.0, float(flagged.sum() + y.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--gold")
    arguments = parser.parse_args()
    settings, sessions = opened()
    with reading(sessions) as session:
        project = find_project(session, arguments.project).id
        newest = select(m.LabelSet.id).where(m.LabelSet.project_id == project).order_by(m.LabelSet.id.desc()).limit(1)
        label_set = session.scalars(newest).one()
    examples = [Labelled(d, split) for d, split in weak_documents(settings, sessions, label_set)]
    gold = list(must(read(arguments.gold))) if arguments.gold else []

    config = TrainConfig(located(settings, arguments.backbone), mode="probe", probe_tokens=arguments.tokens)
    classifier = cut_to(untrained(config), (arguments.layer,))
    found = {}
    for split, tokens in (("train", arguments.tokens), ("validation", arguments.tokens // 2)):
        chosen = take(examples, split, tokens, classifier.tokenizer)
        cut = sample(labelled_windows(chosen, classifier, config), config)
        found[split] = value_of(features(classifier, cut, config.batch_tokens, split)), labels_of(cut)
    (x, y), (x_held_out, held_out) = found["train"], found["validation"]
    truth = held_out.numpy() >= 0.5
    print(f"{len(y):,} training tokens, {len(truth):,} validation tokens, {arguments.backbone} block {arguments.layer}")
    print("flipped   labels' own F1   probe F1   AUROC" + ("   gold F1   gold FPR" if gold else ""))
    for rate in RATES:
        turned = torch.from_numpy(np.random.default_rng([0, int(100 * rate)]).random(len(y)) < rate)
        noisy = torch.where(turned, 1 - y, y)
        weight, bias = logistic(x.clone(), noisy, config.l2)
        p = (x_held_out @ weight + bias).sigmoid().double().numpy()
        threshold = best_threshold(p, truth)
        row = f"{rate:7.0%}   {f1(noisy.numpy() >= 0.5, y.numpy() >= 0.5):14.3f}   {f1(p >= threshold, truth):8.3f}   {auroc(p, truth):5.3f}"
        if gold:
            set_probe(classifier.head, weight, bias)
            judge = replace(classifier, threshold=threshold)
            table = score((s.to_json(threshold) for s in predict(judge, gold)), gold, bootstrap=0)
            row += f"   {table.f1 or 0:7.3f}   {table.fpr or 0:8.3f}"
        print(row, flush=True)


def auroc(p: np.ndarray, y: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, p))


if __name__ == "__main__":
    main()
