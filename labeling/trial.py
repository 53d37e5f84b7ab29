"""One latent over a text that a person typed."""

import torch

from labeling.harvest import corpus_positions
from labeling.references import Reference
from labeling.saes import LoadedSAE


@torch.inference_mode()
def activations_on(reference: Reference, sae: LoadedSAE, latent: int, text: str) -> list[tuple[int, int, float]]:
    """(start, end, value) of every token, as a harvest would store them."""
    if not 0 <= latent < sae.d_sae:
        raise ValueError(f"latent {latent} does not exist; this SAE has latents 0 to {sae.d_sae - 1}")
    (tokens,) = reference.tokenize([text])
    values = torch.zeros(len(tokens))
    for windows, acts in reference.stream([tokens.ids]):
        where = torch.from_numpy(corpus_positions(windows, [0]))  # type: ignore[arg-type]
        values[where] = sae.encode(acts)[:, latent].float().cpu()
    return [(int(a), int(b), float(v)) for a, b, v in zip(tokens.starts, tokens.ends, values, strict=True)]
