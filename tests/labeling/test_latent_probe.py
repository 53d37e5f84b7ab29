"""Planted: eight latents fire on most forget tokens and few others; a rule that errs on a quarter of all tokens."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from labeling.events import Artifact
from labeling.latent_probe import LatentProbeConfig, teach
from labeling.predictions import PredictionStore
from labeling.store import Store
from tests.fakes import planted_store

DOCUMENTS, LONG = 40, 60
SPLITS = ("train", "train", "train", "test")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.bool_], NDArray[np.bool_]]:
    """(store, truth, noisy labels), the last two per token."""
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.random((DOCUMENTS, LONG // 20)) < 0.4, 20, axis=1).ravel()
    fires = np.where(truth[:, None], rng.random((len(truth), 8)) < 0.5, rng.random((len(truth), 8)) < 0.1)
    dense = np.concatenate((fires, rng.random((len(truth), 4)) < 0.2), axis=1) * rng.uniform(1, 2, (len(truth), 12))
    text = " ".join(f"w{i}" for i in range(LONG))
    documents = [(f"d{i}", f"{text} {i}"[: len(text)], "notes", SPLITS[i % 4]) for i in range(DOCUMENTS)]
    store = planted_store(tmp_path_factory.mktemp("planted") / "store", dense, documents)
    return store, truth, truth ^ (rng.random(len(truth)) < 0.25)


def scores(
    store: Path, labels: NDArray[np.bool_], out: Path, config: LatentProbeConfig
) -> tuple[Artifact, PredictionStore]:
    *_, made = teach(store, labels, out, config)
    assert isinstance(made, Artifact)
    return made, PredictionStore.open(made.path)


def f1(flagged: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * (flagged & truth).sum() / (flagged.sum() + truth.sum()))


def test_the_teacher_is_nearer_the_truth_than_the_labels_it_learned_from(planted, tmp_path: Path) -> None:
    store, truth, noisy = planted
    made, found = scores(store, noisy, tmp_path / "teacher", LatentProbeConfig())
    assert made.info["smooth"] > 0
    said = found.p >= made.info["threshold"]
    test = np.repeat([s == "test" for s in Store.open(store).doc_split], LONG)
    for part in (test, ~test):
        assert f1(said[part], truth[part]) > 0.9 > 0.8 > f1(noisy[part], truth[part])


def test_no_document_is_scored_by_what_its_own_labels_taught(planted, tmp_path: Path) -> None:
    store, _, noisy = planted
    plain = LatentProbeConfig(radii=(0,))
    _, before = scores(store, noisy, tmp_path / "before", plain)
    for i, key in enumerate(("d0", "d3")):  # of the train split, and of the test split
        turned = noisy.copy()
        at = slice(int(key[1:]) * LONG, int(key[1:]) * LONG + LONG)
        turned[at] = ~turned[at]
        _, after = scores(store, turned, tmp_path / f"after-{i}", plain)
        assert (after.p[at] == before.p[at]).all()
        assert (after.p == before.p).all() == (key == "d3")


def test_every_token_is_scored_once_with_its_offsets(planted, tmp_path: Path) -> None:
    store = Store.open(planted[0])
    made, found = scores(planted[0], planted[2], tmp_path / "teacher", LatentProbeConfig())
    assert found.keys == store.keys and (found.indptr == store.doc_indptr).all()
    assert (found.starts == store.starts).all() and (found.ends == store.ends).all()
    assert made.info["tokens"] == store.n_tokens


@pytest.mark.parametrize(
    ("labels", "config", "problem"),
    [
        (np.zeros(DOCUMENTS * LONG, bool), LatentProbeConfig(), "all alike"),
        (None, LatentProbeConfig(folds=31), "30 documents; a latent probe needs 31"),
        (None, LatentProbeConfig(fit_tokens=1), "1 documents; a latent probe needs 3"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(planted, labels, config, problem, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        list(teach(planted[0], planted[2] if labels is None else labels, tmp_path / "teacher", config))
    assert not list(tmp_path.iterdir())
