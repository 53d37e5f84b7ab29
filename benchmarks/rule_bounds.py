"""What bounds a rule on annotated documents: its settings, or what it may look at?

    python -m benchmarks.rule_bounds PROJECT GOLD.jsonl [--cap 0.05] [--near biology=0.10]

The project's newest accepted latents, its store's statistics and one harvest of GOLD; nothing is
fitted to GOLD but the choice of settings, so the best row of each kind is an upper bound, not a
measurement of a rule. Printed for every kind of rule: the best F1, and the best that keeps the
false-positive rate of every retain family under the cap.

    local     votes on the token itself, every mix of k, z, growth, gap and shortest span
    window    votes within a window, seeds only
    probe     the latent probe that the newest weak labels teach, as `tokensieve train --teacher latents`
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from app import models as m
from app import queries
from app.cli import find_project, opened
from app.db import reading
from app.steps import newest
from labeling import latent_probe
from labeling.documents import must, read
from labeling.events import value_of
from labeling.gold_words import Agreement, agreement, gold_words
from labeling.harvest import HarvestConfig, StoreDocument, harvest, open_reference
from labeling.postings import gather
from labeling.predict import smoothed
from labeling.rule import Mask, RuleConfig, is_forget, latent_weights
from labeling.store import Store
from labeling.whatif import flag, tally

LOCAL = [
    RuleConfig(k=k, z=z, boundary=boundary, grow_above=above, close_gap=gap, min_tokens=least)  # type: ignore[arg-type]
    for k, z, (boundary, above), gap, least in itertools.product(
        (1, 2, 3, 4),
        (1.5, 2, 3, 4),
        (("seeds", 0), ("grow_positive", 0), ("grow_above", 1)),
        (0, 3, 6, 10),
        (1, 4, 6, 10),
    )
]
WINDOW = [
    RuleConfig(k=k, z=z, window=window, boundary="seeds")
    for window in (6, 10, 15, 20)
    for z in (1.5, 2, 3)
    for k in range(window // 2, 2 * window + 1)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project")
    parser.add_argument("gold")
    parser.add_argument("--cap", type=float, default=0.05)
    parser.add_argument(
        "--near", default="biology=0.10", help="retain families whose name holds this have a cap of their own"
    )
    given = parser.parse_args()
    near, _, near_cap = given.near.partition("=")
    settings, sessions = opened()
    with reading(sessions) as session:
        project = find_project(session, given.project)
        latents = queries.accepted_latents(session, project)
        store = Store.open(settings.data_dir / newest(session, project.id, "store").path)
        labels = queries.newest_label_set(session, project.id)
        assert labels is not None, "label the project first"
        flags = np.load(settings.data_dir / session.get_one(m.Artifact, labels.artifact_id).path / "labels.npy")
    documents = list(must(read(given.gold)))
    retain = {str(d.family) for d in documents if d.side == "retain"}
    caps = {name: float(near_cap) if near in name else given.cap for name in retain}
    with tempfile.TemporaryDirectory() as folder:
        rows = [StoreDocument(d.id, d.text, str(d.family), "test") for d in documents]
        reference, sae = open_reference(store.info["model"], store.info["sae"], store.info["layer"])
        for _ in harvest(rows, reference, sae, Path(folder) / "gold", HarvestConfig(), {}):
            pass
        held = Store.open(Path(folder) / "gold")
        words = gold_words(held, documents)
        held.stats = store.stats  # thresholds are the project's, as for any other text

        def rules(configs: list[RuleConfig]) -> Iterator[tuple[str, Agreement]]:
            weights = latent_weights(held, latents, [])
            postings = gather(held, list(weights))
            for config in configs:
                found = is_forget(flag(held, tally(held, postings, config, weights), config))
                yield str(config.model_dump(exclude_defaults=True)), agreement(words, found)

        def probe() -> Iterator[tuple[str, Agreement]]:
            for name, found in probe_masks(store, is_forget(flags), held):
                yield name, agreement(words, found)

        for kind, tried in (("local", rules(LOCAL)), ("window", rules(WINDOW)), ("probe", probe())):
            report(kind, list(tried), caps)


def probe_masks(store: Store, forget: Mask, held: Store) -> Iterator[tuple[str, Mask]]:
    """The latent probe's forget tokens of `held`, at the threshold and radius that its train tokens chose."""
    config = latent_probe.LatentProbeConfig()
    fold = latent_probe.folds_of(store, config)
    weights, biases = value_of(latent_probe.fit(store, forget, fold, config))
    own = value_of(latent_probe.scores(store, fold, weights, biases))
    radius, threshold, _ = latent_probe.choose(store, own, forget, fold >= 0, config.radii)
    p = value_of(latent_probe.scores(held, np.full(len(held.keys), -1), weights, biases))
    smooth = np.concatenate([smoothed(p[held.document(i)], radius) for i in range(len(held.keys))])
    yield f"radius {radius}, threshold {threshold:.3f}", smooth >= threshold


def report(kind: str, tried: list[tuple[str, Agreement]], caps: dict[str, float]) -> None:
    def kept(found: Agreement) -> bool:
        return all((found.families[name].fpr or 0) <= cap for name, cap in caps.items())

    for title, rows in (
        (f"{kind}, best F1", tried),
        (f"{kind}, best F1 under the caps", [r for r in tried if kept(r[1])]),
    ):
        if not rows:
            print(f"{title}: none of {len(tried)}")
            continue
        config, best = max(rows, key=lambda row: row[1].figures["f1"] or 0)
        fpr = ", ".join(f"{name} {best.families[name].fpr or 0:.3f}" for name in sorted(caps))
        f = best.figures
        print(
            f"{title} ({len(rows)} of {len(tried)}): F1 {f['f1']:.3f}, P {f['precision']:.3f}, R {f['recall']:.3f}; {fpr}; {config}"
        )


if __name__ == "__main__":
    main()
