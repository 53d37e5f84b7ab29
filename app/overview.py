"""Where a project stands on DESIGN's flow: one line per step, and which one comes next."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app import queries
from app.gold import count_gold
from app.models import Project
from app.reference_queries import labels_under


@dataclass(frozen=True)
class Step:
    """One step of the flow. `post`: the step is a job that a button starts; else `href` is where to do it."""

    title: str
    done: bool
    detail: str
    href: str
    label: str
    why: str
    post: bool = False
    again: bool = False


def steps(session: Session, project: Project) -> list[Step]:
    """The whole flow, in order."""
    at = f"/projects/{project.slug}"
    definition = queries.definition_of(session, project.id)
    counts = queries.document_counts(session, project.id).values()
    documents = sum(count["documents"] for count in counts)
    open_ones = documents - sum(count.get("sealed", 0) for count in counts)  # sealed documents are not harvested
    store = queries.newest_artifact(session, project.id, "store")
    discovery = queries.newest_artifact(session, project.id, "discovery")
    verdicts, accepted = len(queries.verdicts_of(session, project)), len(queries.accepted_latents(session, project))
    labels, rule = labels_under(session, project.id, project.reference_id), queries.newest_rule(session, project.id)
    classifiers, gold = queries.classifiers_of(session, project.id), count_gold(session, project.id)
    filtered = queries.newest_artifact(session, project.id, "filter")
    reference = project.reference.name if project.reference else "a model and its SAE"
    held, stale = "activations of every token", False
    if store is not None:
        held = f"{store.info.get('tokens', 0):,} tokens of {store.info.get('documents', 0):,} documents"
        stale = store.info.get("documents", open_ones) < open_ones
    return [
        Step("Define", bool(definition and definition.includes.strip()),
             f"version {definition.version if definition else 0}", f"{at}#definition", "Write it down",
             "Say what belongs to the concept and what only looks like it."),
        Step("Import", documents > 0, f"{documents:,} documents", f"{at}/corpus", "Add a file",
             "Text of the concept, and of the registers nearest to it that must stay."),
        Step("Reference", project.reference is not None, reference, f"{at}#reference", "Choose a reference",
             "A language model with a sparse autoencoder, whose latents become labeling functions."),
        Step("Harvest", store is not None and not stale, held, f"{at}/jobs", "Harvest and discover",
             "Run the reference over the corpus once; everything after reads the result.", True, stale),
        Step("Discover", discovery is not None and not stale, "latents by selectivity", f"{at}/latents", "Discover",
             "Rank every latent by how much more it fires on forget text than on retain text.", True),
        Step("Judge", accepted > 0, f"{accepted:,} accepted of {verdicts:,} judged", f"{at}/latents", "Judge latents",
             "Accept the latents that stand for the concept; reject the ones that stand for the register."),
        Step("Label", labels is not None, f"rule version {rule.version}" if rule else "no rule saved", f"{at}/rule",
             "Set the rule", "Choose how many votes make a seed and where spans grow, then label the corpus."),
        Step("Train", bool(classifiers), f"{len(classifiers):,} classifiers", f"{at}/classifiers", "Train a classifier",
             "Distil the weak labels into a small model that needs neither the reference nor its SAE."),
        Step("Review", gold > 0, f"{gold:,} gold documents", f"{at}/review", "Review documents",
             "Read what was flagged and put it right: this is what every score is measured against."),
        Step("Evaluate", any("gold" in c.info or "test" in c.info for c in classifiers), "held-out scores",
             f"{at}/classifiers", "See the scores",
             "Precision, recall and the false positives of every retain family."),
        Step("Filter", filtered is not None, "mask, remove or drop", f"{at}/filters", "Filter text",
             "Stream a pretraining corpus through the classifier."),
    ]  # fmt: skip


def next_step(flow: list[Step]) -> Step | None:
    """The first one not done."""
    return next((step for step in flow if not step.done), None)
