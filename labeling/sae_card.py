"""The card that lies beside a trained SAE: what it reads, what it was trained on, how good it is."""

from typing import Any

from labeling.hooks import Hook
from labeling.saes import MASSIVE


def sae_card(info: dict[str, Any], d_in: int, module: str, data: dict[str, int]) -> str:
    """Markdown with the front matter that the hub reads. `data` are sources with their tokens."""
    config = info["config"]
    hook = Hook(config["layer"], config["kind"])
    sparsity = "" if config["architecture"] == "jumprelu" else f", k = {config['k']}"
    sources = "\n".join(f"- `{source}`: {tokens:,} tokens" for source, tokens in data.items())
    return f"""---
library_name: sae_lens
base_model: {config["model"]}
---
# SAE of {config["model"]}, {hook}

Reads `{hook.name}`{f" (`{module}`)" if module else ""} in windows of {config["context"]} tokens; special tokens are context only. Loads with `sae_lens.SAE.load_from_disk`.

| | |
|---|---|
| architecture | {config["architecture"]}{sparsity}, {config["d_sae"]:,} latents, d_in {d_in}, fp32 |
| training | {f"{config['init']} gone on with, " if config["init"] else ""}{config["samples"]:,} samples drawn from {info["training_tokens"]:,} tokens (batch {config["batch"]:,}, Adam {config["lr"]:g}, seed {config["seed"]}) |
| FVU, {info["held_out_tokens"]:,} held-out tokens | {info["held_out_fvu"]:.3f} |
| FVU without {info["held_out_massive"]:,.0f} massive states (over {MASSIVE:g} times the median norm) | {info["held_out_fvu_usual"]:.3f} |
| L0, held out | {info["held_out_l0"]:.1f} |
| dead latents (no firing in the last 1,000 steps) | {info["dead"]:,.0f} |
| silent on the held-out tokens | {info["held_out_silent"]:,.0f} |

## Data
{sources or "Activations harvested before."}

## Command
```
{command(config, data)}
```
"""


def command(config: dict[str, Any], data: dict[str, int]) -> str:
    """What makes this SAE again."""
    options = {"model": "model", "layer": "layer", "kind": "hook", "architecture": "architecture", "d_sae": "d-sae",
               "k": "k", "samples": "samples", "batch": "batch", "lr": "lr", "context": "context", "seed": "seed"}  # fmt: skip
    given = " ".join(f"--{option} {config[name]}" for name, option in options.items())
    given += f" --init {config['init']}" if config["init"] else ""
    texts = "".join(f" --text {source}" for source in data)
    return f"tokensieve sae train {given}{texts} -o OUT"
