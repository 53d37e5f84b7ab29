"""Sparse autoencoders: load any that sae-lens reads, and measure how well one reconstructs.

sae-lens costs seconds and half a gigabyte to import, so it is imported inside functions and only
in workers.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from labeling.references import Reference

# sae-lens would otherwise log to a cloud service (RELIABILITY 8).
os.environ.setdefault("WANDB_MODE", "disabled")


@dataclass
class LoadedSAE:
    """An SAE in fp32 (bf16 weights flip one active latent in a hundred) and what it was trained on."""

    sae: Any
    d_in: int
    d_sae: int
    architecture: str
    metadata: dict[str, Any]

    @torch.inference_mode()
    def encode(self, acts: Float[Tensor, "tok d_in"]) -> Float[Tensor, "tok d_sae"]:
        return self.sae.encode(acts.float())

    @torch.inference_mode()
    def reconstruct(self, acts: Float[Tensor, "tok d_in"]) -> Float[Tensor, "tok d_in"]:
        return self.sae.decode(self.sae.encode(acts.float()))


def load_sae(source: str, device: str = "cpu") -> LoadedSAE:
    """`release/sae_id` of sae-lens's registry, or a folder sae-lens saved. Raises ValueError.

    Pickled weights are refused: only `sae_weights.safetensors` is opened in a folder.
    """
    from sae_lens import SAE

    path = Path(source)
    if path.is_dir():
        for needed in ("cfg.json", "sae_weights.safetensors"):
            if not (path / needed).is_file():
                raise ValueError(f"{path}: no {needed}; give a folder saved by sae-lens or by `tokensieve sae train`")
        sae = SAE.load_from_disk(path, device=device, dtype="float32")
    elif "/" in source and not source.startswith((".", "/")):
        release, sae_id = source.split("/", 1)
        sae = SAE.from_pretrained(release, sae_id, device=device, dtype="float32")
    else:
        raise ValueError(f"{source}: neither a folder nor release/sae_id of the sae-lens registry")
    metadata = sae.cfg.metadata.to_dict() if hasattr(sae.cfg.metadata, "to_dict") else dict(vars(sae.cfg.metadata))
    return LoadedSAE(sae.eval(), sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.architecture(), metadata)


@torch.inference_mode()
def evaluate_reconstruction(loaded: LoadedSAE, acts: Float[Tensor, "tok d_in"]) -> dict[str, float]:
    """FVU, L0 and latents that never fire, on activations the SAE was not trained on."""
    fired = torch.zeros(loaded.d_sae, dtype=torch.bool)
    error = active = 0.0
    for block in acts.split(4096):
        features = loaded.encode(block)
        fired |= (features > 0).any(0)
        active += float((features > 0).sum())
        error += float((block - loaded.sae.decode(features)).pow(2).sum())
    variance = float((acts - acts.mean(0)).pow(2).sum())
    return {
        "held_out_fvu": error / variance,
        "held_out_l0": active / len(acts),
        "held_out_silent": float((~fired).sum()),
    }


@torch.inference_mode()
def downstream_loss(reference: Reference, loaded: LoadedSAE, ids: list[np.ndarray]) -> dict[str, float]:
    """Next-token loss (nats) of the model as it is, with the SAE's reconstruction at the hook, and with zeros there.

    `recovered` is (zeroed - reconstructed) / (zeroed - clean): 1 if the reconstruction loses nothing. Special
    tokens keep their own states, as the SAE never saw them.
    """
    block = reference.blocks[reference.layer]
    edits: dict[str, Callable[[Tensor], Tensor] | None] = {
        "clean": None,
        "reconstructed": lambda x: loaded.reconstruct(x.reshape(-1, x.shape[-1])).reshape(x.shape).to(x.dtype),
        "zeroed": torch.zeros_like,
    }
    totals, count = dict.fromkeys(edits, 0.0), 0
    special = len(reference.prefix)
    for windows in reference.plan([len(i) for i in ids]):
        tokens, scored = reference.batch(windows, ids)
        count += int(scored[:, 1:].sum())
        for name, edit in edits.items():

            def replace_states(_module: Any, _inputs: Any, output: Any, edit: Any = edit) -> Any:
                states = output[0] if isinstance(output, tuple) else output
                changed = torch.cat([states[:, :special], edit(states[:, special:])], dim=1)
                return (changed, *output[1:]) if isinstance(output, tuple) else changed

            handle = block.register_forward_hook(replace_states) if edit else None
            try:
                logits = reference.model(input_ids=tokens.to(reference.device), use_cache=False).logits
            finally:
                if handle:
                    handle.remove()
            losses = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
            )
            totals[name] += float(losses[scored[:, 1:].flatten()].sum())
    losses_ = {name: total / count for name, total in totals.items()}
    recovered = (losses_["zeroed"] - losses_["reconstructed"]) / (losses_["zeroed"] - losses_["clean"])
    return {**losses_, "recovered": recovered, "tokens": float(count)}
