"""The formats in which SAEs are published, each read into what sae-lens's classes take.

A new format is one function here. `config` needs neither torch nor sae-lens, so that a folder can
be described quickly; `weights` is called only to load. The folder was checked before
(`labeling.checks`), so sizes are known to fit.
"""

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labeling.checks import check_folder
from labeling.hooks import Hook, parse_hook

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Source:
    """One SAE on disk: its configuration as sae-lens writes it, and its tensors by sae-lens's names."""

    config: dict[str, Any]
    weights: "Callable[[], dict[str, Tensor]]"

    @property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = self.config["metadata"]
        return found


def read_folder(path: Path) -> Source:
    """The SAE in a folder, whatever its format. Raises ValueError saying what is missing or refused."""
    check_folder(path)
    names = {p.name for p in path.iterdir()}
    for needed, read in FORMATS.items():
        if needed <= names:
            try:
                return read(path)
            except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
                raise ValueError(f"{path}: its configuration is not complete ({error!r})") from None
    wanted = "; ".join(" with ".join(sorted(files)) for files in FORMATS)
    raise ValueError(f"{path} holds no SAE; known are folders with {wanted}")


def configured(
    architecture: str,
    shape: tuple[int, ...],
    hook: Hook | None,
    *,
    apply_b_dec_to_input: bool,
    context: int | None = None,
    model: str | None = None,
    **own: Any,
) -> dict[str, Any]:
    """A sae-lens 6 configuration. `shape` is that of the encoder as (d_in, d_sae)."""
    d_in, d_sae = shape
    metadata = {
        "sae_lens_version": "6.0.0", "model_name": model, "hook_name": hook.name if hook else None,
        "context_size": context, "prepend_bos": True,
    }  # fmt: skip
    return {
        "architecture": architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": apply_b_dec_to_input, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": metadata, **own,
    }  # fmt: skip


def sae_lens(path: Path) -> Source:
    """What sae-lens, and `tokensieve sae train`, save. Configurations of before version 6 are flat."""
    config = _json(path / "cfg.json")
    shape = _shapes(path / "sae_weights.safetensors")["W_enc"]
    if (config["d_in"], config["d_sae"]) != shape:
        raise ValueError(
            f"{path}: cfg.json says d_in {config['d_in']} and d_sae {config['d_sae']}, its weights have {shape[0]} and {shape[1]}"
        )
    if not config.get("metadata"):
        flat = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
        config = {**config, "metadata": {flat.get(key, key): value for key, value in config.items()}}
    config.setdefault("architecture", "standard")

    def weights() -> "dict[str, Tensor]":
        found = _tensors(path / "sae_weights.safetensors")
        scaling = found.pop("scaling_factor", None)  # sae-lens once saved one with every SAE, all ones
        if scaling is not None and not bool((scaling == 1).all()):
            raise ValueError(f"{path}: its scaling_factor is not 1; fold it into the decoder and leave it out")
        return found

    return Source(config, weights)


def gemma_scope(path: Path) -> Source:
    """Gemma Scope's `params.npz`. What it was trained on is written in the path alone."""
    file = path / "params.npz"
    shapes = {_upper(name): shape for name, shape in _shapes(file).items()}
    config = configured("jumprelu", shapes["W_enc"], _hook_in_path(path), apply_b_dec_to_input=False, context=1024)
    return Source(config, lambda: {_upper(name): tensor for name, tensor in _tensors(file).items()})


def gemma_scope_2(path: Path) -> Source:
    """Gemma Scope 2's `params.safetensors`, for Gemma 3."""
    file, about = path / "params.safetensors", _json(path / "config.json")
    shapes = _shapes(file)
    if "affine_skip_connection" in shapes or about.get("hf_hook_point_out"):
        raise ValueError(f"{path} is a transcoder, which predicts another place than it reads; give an SAE")
    hook = parse_hook(about["hf_hook_point_in"])
    config = configured("jumprelu", shapes["w_enc"], hook, apply_b_dec_to_input=False, context=1024,
                        model=about.get("model_name"))  # fmt: skip
    return Source(config, lambda: {_upper(name): tensor for name, tensor in _tensors(file).items()})


def dictionary_learning(path: Path) -> Source:
    """dictionary_learning's `config.json` beside its weights, converted from `ae.pt` to safetensors."""
    config, file = _json(path / "config.json"), path / "ae.safetensors"
    trainer = config["trainer"]
    kind, shapes = trainer["dict_class"], _shapes(file)
    shape = shapes["W_enc"] if "W_enc" in shapes else shapes["encoder.weight"][::-1]
    part = str(trainer.get("submodule_name") or "resid_post")
    hook = Hook(int(trainer["layer"]), "mlp_out" if part.startswith("mlp") else "attn_out" if part.startswith("att") else "resid_post")  # fmt: skip
    architectures = {
        "AutoEncoder": "standard", "AutoEncoderNew": "standard", "GatedAutoEncoder": "gated",
        "AutoEncoderTopK": "topk", "BatchTopKSAE": "jumprelu", "MatryoshkaBatchTopKSAE": "jumprelu",
        "JumpReluAutoEncoder": "jumprelu",
    }  # fmt: skip
    if kind not in architectures:
        raise ValueError(f"{path}: dict_class {kind} is not one of {', '.join(architectures)}")
    made = configured(
        architectures[kind], shape, hook, apply_b_dec_to_input=kind != "JumpReluAutoEncoder",
        context=config.get("buffer", {}).get("ctx_len"), model=trainer.get("lm_name"),
        **({"k": int(trainer["k"])} if kind == "AutoEncoderTopK" else {}),
    )  # fmt: skip
    return Source(made, lambda: _from_dictionary_learning(_tensors(file), made))


def _from_dictionary_learning(found: "dict[str, Tensor]", config: dict[str, Any]) -> "dict[str, Tensor]":
    """Linear layers keep their weights transposed; three classes call the decoder's bias three names."""
    names = {"encoder.bias": "b_enc", "bias": "b_dec", "decoder_bias": "b_dec", "mag_bias": "b_mag", "gate_bias": "b_gate"}  # fmt: skip
    out = {}
    for name, tensor in found.items():
        if name in ("encoder.weight", "decoder.weight"):
            out["W_enc" if name[0] == "e" else "W_dec"] = tensor.T.contiguous()
        elif name == "threshold" and config["architecture"] != "jumprelu":
            continue  # AutoEncoderTopK keeps one, and encodes by the k largest all the same
        elif name == "threshold" and tensor.ndim == 0:
            out[name] = tensor.repeat(config["d_sae"])
        elif name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "r_mag", *names):
            out[names.get(name, name)] = tensor
    return out


def sparsify(path: Path) -> Source:
    """EleutherAI's sparsify. sae-lens reads these wrongly: `num_latents` 0 means 'by the factor', the
    decoder is already (d_sae, d_in), and its bias is always taken from the input first."""
    config, file = _json(path / "cfg.json"), path / "sae.safetensors"
    if config.get("transcode") or config.get("skip_connection"):
        raise ValueError(f"{path} is a transcoder, which predicts another place than it reads; give an SAE")
    if config.get("activation", "topk") != "topk":
        raise ValueError(f"{path}: activation {config['activation']!r}; only topk can be read")
    d_sae, d_in = _shapes(file)["encoder.weight"]
    run = _json(path.parent / "config.json") if (path.parent / "config.json").is_file() else {}
    made = configured("topk", (d_in, d_sae), parse_hook(path.name), apply_b_dec_to_input=True, k=int(config["k"]),
                      context=run.get("ctx_len"), model=run.get("model"))  # fmt: skip

    def weights() -> "dict[str, Tensor]":
        found = _tensors(file)
        return {"W_enc": found["encoder.weight"].T.contiguous(), "b_enc": found["encoder.bias"],
                "W_dec": found["W_dec"], "b_dec": found["b_dec"]}  # fmt: skip

    return Source(made, weights)


FORMATS: dict[frozenset[str], Callable[[Path], Source]] = {
    frozenset({"cfg.json", "sae_weights.safetensors"}): sae_lens,
    frozenset({"params.npz"}): gemma_scope,
    frozenset({"config.json", "params.safetensors"}): gemma_scope_2,
    frozenset({"config.json", "ae.safetensors"}): dictionary_learning,
    frozenset({"cfg.json", "sae.safetensors"}): sparsify,
}


def _hook_in_path(path: Path) -> Hook | None:
    """`…-pt-att/layer_20/width_16k/average_l0_71` reads attention's heads in block 20."""
    text = "/".join(path.resolve().parts[-6:])
    layer = re.search(r"layer_(\d+)", text)
    if layer is None:
        return None
    kind = re.search(r"(?:-|/)(att|mlp|res)\b|/(attn_out|mlp_out|resid_post)", text)
    named = (kind[1] or kind[2]) if kind else "res"
    return Hook(int(layer[1]), "z" if named.startswith("att") else "mlp_out" if named.startswith("mlp") else "resid_post")  # fmt: skip


def _upper(name: str) -> str:
    return "W" + name[1:] if name.startswith("w_") else name


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _shapes(path: Path) -> Shapes:
    """Shapes by name, from headers alone."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _npy_shape(archive, name) for name in archive.namelist()}
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}


def _npy_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)[0]


def _tensors(path: Path) -> "dict[str, Tensor]":
    """Every tensor in fp32: bf16 weights flip one active latent in a hundred."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    return {name: tensor.float() for name, tensor in load_file(path).items()}
