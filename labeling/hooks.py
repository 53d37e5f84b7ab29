"""Where in a model an SAE reads, by the names that SAE metadata uses.

TransformerLens names what a block reads and adds (`blocks.3.hook_mlp_out`), Hugging Face names
modules (`model.layers.3.mlp.output`). Both become a `Hook`, which `locate` finds in any model.
What enters block L is what block L - 1 returned, so `resid_pre` of a later block is kept as the
`resid_post` before it.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["resid_post", "resid_pre", "mlp_out", "attn_out", "z"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LENS = re.compile(r"blocks\.(\d+)\.(?:hook_(resid_pre|resid_post|mlp_out|attn_out)|attn\.hook_(z))")
MODULE = re.compile(r"(?:\w+\.)*(?:layers|layer|h|blocks)\.(\d+)(?:\.([\w.]+?))??(?:\.(input|output))?")


@dataclass(frozen=True)
class Hook:
    """One place to read at: `z` is what attention's output projection reads, heads side by side."""

    layer: int
    kind: Kind = "resid_post"

    @property
    def name(self) -> str:
        return f"blocks.{self.layer}.attn.hook_z" if self.kind == "z" else f"blocks.{self.layer}.hook_{self.kind}"

    def __str__(self) -> str:
        what = {
            "resid_post": "output of block",
            "resid_pre": "input of block",
            "mlp_out": "what the MLP adds in block",
            "attn_out": "what attention adds in block",
            "z": "attention's heads in block",
        }
        return f"{what[self.kind]} {self.layer}"


# What a block calls the part in question, over the architectures of the hub. Gemma 2 and 3 and OLMo 2
# norm it once more before they add it; that is what TransformerLens, and so every SAE, calls the output.
PARTS: dict[str, tuple[str, ...]] = {
    "mlp_out": ("post_feedforward_layernorm", "mlp", "feed_forward", "block_sparse_moe", "ffn", "output.dense"),
    "attn_out": ("self_attn", "attn", "attention.output.dense", "attention", "self_attention"),
    "z": (
        "self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "attn.c_proj", "attn.attention.out_proj",
        "attn.out_proj", "attn.Wo", "attention.o_proj", "attention.output.dense", "attention.out_lin",
        "attention.dense", "self_attention.dense",
    ),
}  # fmt: skip


def hook_of(metadata: dict[str, Any]) -> Hook | None:
    """The hook an SAE was trained on, by its metadata; None where that does not say. Raises ValueError."""
    found = [
        parse_hook(str(metadata[key])) for key in ("hook_name", "hf_hook_name") if metadata.get(key)
    ]  # fmt: skip
    if len(set(found)) > 1:
        names = f"{metadata['hook_name']} and {metadata['hf_hook_name']}"
        raise ValueError(f"the SAE's metadata names two hooks, {names}; correct its configuration")
    if not found and metadata.get("hook_layer") is not None:
        return Hook(int(metadata["hook_layer"]))
    return found[0] if found else None


def hook_at(source: str, metadata: dict[str, Any], layer: int | None) -> Hook:
    """The hook of the SAE at `source`; `layer` is asked for only where its metadata does not say. Raises ValueError."""
    hook = hook_of(metadata)
    if hook is None and layer is None:
        raise ValueError(f"{source} does not say which block it reads; give the layer")
    if hook is not None and layer not in (None, hook.layer):
        raise ValueError(f"{source} reads the {hook}; give layer {hook.layer} or none, not {layer}")
    return hook or Hook(layer or 0)


def parse_hook(name: str) -> Hook:
    """`blocks.L.hook_…` of TransformerLens, or a Hugging Face module path with an optional `.input` or `.output`."""
    if match := LENS.fullmatch(name):
        return canonical(Hook(int(match[1]), match[2] or match[3]))  # type: ignore[arg-type]
    if match := MODULE.fullmatch(name):
        layer, part, side = int(match[1]), match[2] or "", match[3] or "output"
        if not part:
            return canonical(Hook(layer, "resid_post" if side == "output" else "resid_pre"))
        if side == "input" and part in PARTS["z"]:
            return Hook(layer, "z")
        if side == "output" and part in PARTS["mlp_out"]:
            return Hook(layer, "mlp_out")
        if side == "output" and part in ("post_attention_layernorm", *PARTS["attn_out"]):
            return Hook(layer, "attn_out")
    raise ValueError(
        f"the SAE reads {name}; only hook_resid_pre, hook_resid_post, hook_mlp_out, hook_attn_out and hook_z can be used"
    )


def canonical(hook: Hook) -> Hook:
    return Hook(hook.layer - 1) if hook.kind == "resid_pre" and hook.layer > 0 else hook


def locate(blocks: "nn.ModuleList", hook: Hook) -> "tuple[nn.Module, bool]":
    """The module to hook, and whether its input (else its output) is what the SAE reads."""
    block = blocks[hook.layer]
    if hook.kind in ("resid_post", "resid_pre"):
        return block, hook.kind == "resid_pre"
    names = PARTS[hook.kind]
    if hook.kind == "attn_out" and hasattr(block, "post_feedforward_layernorm"):
        names = ("post_attention_layernorm",)  # in other models that name is the norm before the MLP
    for name in names:
        try:
            return block.get_submodule(name), hook.kind == "z"
        except AttributeError:
            continue
    raise ValueError(f"{type(block).__name__} has none of {', '.join(names)}; cannot read the {hook}")


def width_of(module: "nn.Module", hook: Hook, hidden_size: int) -> int:
    """Dimensions at a hook: the hidden size, except that the heads together may be wider or narrower."""
    if hook.kind != "z":
        return hidden_size
    # GPT-2's Conv1D keeps its weight as (in, out), linear layers as (out, in).
    return int(getattr(module, "in_features", 0) or module.get_parameter("weight").shape[0])
