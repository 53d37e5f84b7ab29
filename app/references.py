"""Register references: what an SAE is and where it reads, checked against the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import JobView
from app.models import Reference
from app.settings import Settings
from labeling.events import Event, Progress
from labeling.hooks import hook_at
from labeling.sae_sources import read_folder


def describe(sae: str, layer: int | None) -> dict[str, Any]:
    """What an SAE says about itself. A folder is only read about, others are loaded. Raises ValueError.

    `layer` is needed only where it does not say which block it reads.
    """
    if Path(sae).is_dir():
        config = read_folder(Path(sae)).config
    else:
        from labeling.saes import load_sae

        loaded = load_sae(sae)
        config = {"d_in": loaded.d_in, "d_sae": loaded.d_sae, "architecture": loaded.architecture,
                  "k": getattr(loaded.sae.cfg, "k", None), "metadata": loaded.metadata}  # fmt: skip
    metadata = config["metadata"]
    hook = hook_at(sae, metadata, layer)
    return {
        "d_in": int(config["d_in"]), "d_sae": int(config["d_sae"]), "architecture": str(config["architecture"]),
        "k": config.get("k"), "l0": metadata.get("l0") or config.get("k"), "context": metadata.get("context_size"),
        "hook": hook.name, "layer": hook.layer,
        "trained_on": metadata.get("model_name"), "neuronpedia": metadata.get("neuronpedia_id"),
    }  # fmt: skip


def add(sessions: sessionmaker[Session], name: str, model: str, sae: str, layer: int | None = None) -> Reference:
    """Register a model and its SAE. The same name with the same parts again only describes them anew."""
    from labeling.references import check_fit

    model, sae = (str(Path(part).absolute()) if Path(part).is_dir() else part for part in (model, sae))
    info = describe(sae, layer)
    layer = info["layer"]
    check_fit(model, sae, info["hook"], info["d_in"])
    with sessions.begin() as session:
        row = session.scalar(select(Reference).where(Reference.name == name))
        if row is None:
            row = Reference(name=name, model=model, sae=sae, layer=layer, info=info)
            session.add(row)
        elif (row.model, row.sae, row.layer) != (model, sae, layer):
            raise ValueError(
                f"reference {name!r} exists with other parts ({row.model}, {row.sae}, block {row.layer}); choose another name"
            )
        row.info = info
        return row


def add_reference(settings: Settings, sessions: sessionmaker[Session], job: JobView) -> Iterator[Event]:
    """The job behind the form: fetch the SAE if need be, check that it fits the model, register both."""
    a = job.args
    yield Progress(0, 1, "references", f"read {a['sae']}")
    row = add(sessions, a["name"], a["model"], a["sae"], a.get("layer"))
    yield Progress(1, 1, "references", f"added {row.name}: {row.info['d_sae']:,} latents at {row.info['hook']}")
