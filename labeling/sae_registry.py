"""sae-lens's registry of published SAEs, read without importing sae-lens (seconds, half a gigabyte).

What an entry's hook and width are is written in its names only; loading it tells for certain.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from math import log2
from pathlib import Path
from typing import Any

import yaml

PICKLED = "its weights are pickled, which runs code when they are opened; convert them to safetensors where you trust them, and give the folder"
TRANSCODER = "a transcoder predicts another place than it reads; give an SAE"
REFUSED = {
    "connor_rob_hook_z": PICKLED, "goodfire": PICKLED, "dictionary_learning_1": PICKLED, "deepseek_r1": PICKLED,
    "qwen_scope": PICKLED, "gemma_2_transcoder": TRANSCODER, "mwhanna_transcoder": TRANSCODER,
    "mntss_clt_layer_transcoder": TRANSCODER,
    "temporal": "a temporal SAE reads whole sequences at once, not one token's state",
}  # fmt: skip
# What TransformerLens calls a model, as the hub does.
HUB = {
    "gpt2-small": "openai-community/gpt2", "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One published SAE. `refusal` says why it cannot be used here; None where it can."""

    release: str
    sae_id: str
    model: str  # hub id
    hook: str  # `blocks.L.hook_…`, or empty where no name tells
    width: int | None
    l0: float | None
    neuronpedia: str | None
    repo: str
    path: str  # of the folder or file in the repository
    loader: str  # sae-lens's name for the format
    refusal: str | None

    @property
    def source(self) -> str:
        return f"{self.release}/{self.sae_id}"

    @property
    def text(self) -> str:
        width = f"{self.width} {self.width // 1000}k {self.width // 1024}k" if self.width else ""
        return f"{self.source} {self.model} {self.hook} {width} {self.neuronpedia or ''}".lower()


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """Every SAE of the registry, in its order. About a second, once a process."""
    spec = find_spec("sae_lens")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("sae-lens is not installed, so its registry cannot be read; pip install sae-lens")
    path = Path(spec.submodule_search_locations[0]) / "pretrained_saes.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with path.open(encoding="utf-8") as file:
        releases: dict[str, dict[str, Any]] = yaml.load(file, Loader=loader)
    return tuple(_entry(name, release, sae) for name, release in releases.items() for sae in release["saes"])


@lru_cache(maxsize=1)
def _by_source() -> dict[str, Entry]:
    return {entry.source: entry for entry in entries()}


def find(source: str) -> Entry | None:
    """The entry that `release/sae_id` names. Raises ValueError for a release without such an id."""
    found = _by_source().get(source)
    release, _, sae_id = source.partition("/")
    if found is None and any(entry.release == release for entry in entries()):
        some = ", ".join([entry.sae_id for entry in entries() if entry.release == release][:5])
        raise ValueError(f"{source}: release {release} of the sae-lens registry has no {sae_id!r}; it has {some}, …")
    return found


def search(query: str, usable: bool = True) -> list[Entry]:
    """Entries that hold every word of the query, in any order of the words."""
    words = query.lower().split()
    return [
        entry
        for entry, text in _texts()
        if (entry.refusal is None or not usable) and all(word in text for word in words)
    ]


@lru_cache(maxsize=1)
def _texts() -> tuple[tuple[Entry, str], ...]:
    return tuple((entry, entry.text) for entry in entries())


def _entry(release: str, about: dict[str, Any], sae: dict[str, Any]) -> Entry:
    sae_id, path = str(sae["id"]), str(sae["path"])
    hook = _hook(release, sae_id, path)
    kind = about.get("conversion_func") or "sae_lens"
    refusal = REFUSED.get(kind) or (TRANSCODER if "transcoder" in f"{release}{path}" else None)
    if refusal is None and (sae_id.startswith("embedding") or "hook_resid_mid" in hook):
        refusal = "it reads a place that is not hooked here (the embedding, or between attention and MLP)"
    return Entry(
        release, sae_id, hub_id(str(about["model"])), hook, _width(release, sae_id, path, sae.get("neuronpedia")),
        float(sae["l0"]) if sae.get("l0") else None, sae.get("neuronpedia"), str(about["repo_id"]), path, kind, refusal,
    )  # fmt: skip


def hub_id(model: str) -> str:
    """`gemma-2-2b` of TransformerLens is `google/gemma-2-2b` of the hub."""
    if "/" in model or model in HUB:
        return HUB.get(model, model)
    if model.startswith("gemma"):
        return f"google/{model}"
    if match := re.fullmatch(r"qwen3-(.+)b", model):
        return f"Qwen/Qwen3-{match[1]}B"
    return model


def _hook(release: str, sae_id: str, path: str) -> str:
    if named := re.search(
        r"blocks\.\d+\.(?:attn\.)?hook_(?:resid_(?:pre|post|mid)|mlp_out|attn_out|z)", f"{sae_id} {path}"
    ):
        return named[0].replace(".hook_z", ".attn.hook_z") if ".attn." not in named[0] else named[0]
    layer = re.search(r"layer[_.]?(\d+)|^l(\d+)[rma]_", sae_id)
    if layer is None:
        return ""
    block, text = layer[1] or layer[2], f"{release} {path}"
    if "transcoder" in text or "clt" in text:
        return f"blocks.{block}.hook_mlp_in"
    if re.search(r"-att\b|attn_out/", text):
        return f"blocks.{block}.attn.hook_z"
    if "llama_scope_lxa" in release:
        return f"blocks.{block}.hook_attn_out"
    if re.search(r"-mlp\b|mlp_out/|lxm_", text):
        return f"blocks.{block}.hook_mlp_out"
    return f"blocks.{block}.hook_resid_post"


def _width(release: str, sae_id: str, path: str, neuronpedia: str | None) -> int | None:
    # OpenR1-Math-220k is what a release was trained on.
    text = f"{sae_id} {path} {release} {neuronpedia or ''}".lower().replace("math-220k", "math")
    for pattern in (
        r"width[_-](\d+)(k|m)(?![a-z0-9])", r"2pow(\d+)()", r"[_-]w?-?(\d+)(k)(?![a-z0-9])",
        r"(?:resid_p\w+|mlp_out)_(\d{3,6})()(?![a-z0-9])",
    ):  # fmt: skip
        if match := re.search(pattern, text):
            if pattern.startswith("2pow"):
                return 1 << int(match[1])
            return _latents(int(match[1]), match[2])
    return None


def _latents(count: int, unit: str) -> int:
    """`16k` is 16,384 and `131k` 131,072: powers of two, cut after the thousands. But `24k` is 24,576."""
    named = count * {"k": 1000, "m": 10**6, "": 1}[unit]
    power: int = 2 ** round(log2(named))
    if not unit:
        return named
    return power if abs(power - named) < 0.05 * named else count * {"k": 1024, "m": 1 << 20}[unit]
