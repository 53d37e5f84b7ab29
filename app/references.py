"""Register references: what an SAE's own metadata says about its hook, checked against the model."""

import json
import re
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.models import Reference

HOOK = re.compile(r"(?:blocks|layers)\.(\d+)\b")


def layer_in(metadata: dict[str, Any]) -> int | None:
    """The block an SAE reads, from sae-lens's `hook_name`, `hf_hook_name` or `hook_layer`."""
    for name in ("hook_name", "hf_hook_name"):
        if found := HOOK.search(str(metadata.get(name) or "")):
            # What enters block L is what block L - 1 returned.
            return int(found[1]) - ("resid_pre" in str(metadata[name]))
    layer = metadata.get("hook_layer")
    return int(layer) if layer is not None else None


def describe_folder(sae: Path) -> dict[str, Any]:
    """What `cfg.json` of a saved SAE says, without importing sae-lens. Raises ValueError."""
    try:
        config = json.loads((sae / "cfg.json").read_text(encoding="utf-8"))
        metadata = config.get("metadata") or config
        return {
            "d_in": int(config["d_in"]), "d_sae": int(config["d_sae"]), "architecture": str(config.get("architecture", "standard")),
            "k": config.get("k"), "context": metadata.get("context_size"), "layer": layer_in(metadata),
        }  # fmt: skip
    except FileNotFoundError:
        raise ValueError(f"{sae}: no cfg.json; give a folder saved by sae-lens or by `tokensieve sae train`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{sae / 'cfg.json'}: not an SAE configuration ({error})") from None


def add(sessions: sessionmaker[Session], name: str, model: str, sae: str, layer: int | None = None) -> Reference:
    """Register a model and its SAE. The same name again with the same parts changes nothing."""
    if Path(model).is_dir():
        model = str(Path(model).absolute())
    if Path(sae).is_dir():
        sae = str(Path(sae).absolute())
        info = describe_folder(Path(sae))
    else:
        from labeling.saes import load_sae

        loaded = load_sae(sae)
        info = {
            "d_in": loaded.d_in,
            "d_sae": loaded.d_sae,
            "architecture": loaded.architecture,
            "layer": layer_in(loaded.metadata),
        }
        info["context"] = loaded.metadata.get("context_size")
    layer = layer if layer is not None else info["layer"]
    if layer is None:
        raise ValueError(f"{sae} does not say which block it reads; give --layer")
    with sessions.begin() as session:
        row = session.scalar(select(Reference).where(Reference.name == name))
        if row is None:
            row = Reference(name=name, model=model, sae=sae, layer=layer, info=info)
            session.add(row)
        elif (row.model, row.sae, row.layer) != (model, sae, layer):
            raise ValueError(
                f"reference {name!r} exists with other parts ({row.model}, {row.sae}, block {row.layer}); choose another name"
            )
        return row
