"""Every published format gives the activations that its own code, or sae-lens run directly, gives.

Small random weights in the genuine formats, in the hub's own cache layout, offline.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from labeling.sae_registry import entries, find, search
from labeling.saes import LoadedSAE, load_sae
from tests import fakes, hub

D_IN, D_SAE, K = 16, 40, 5
torch.set_num_threads(1)  # on matrices this small, threads only wait for each other


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    w_enc = torch.randn(D_IN, D_SAE, generator=g) / D_IN**0.5
    vectors = {name: 0.1 * torch.randn(D_SAE, generator=g) for name in ("b_enc", "b_mag", "b_gate", "r_mag")}
    return {"W_enc": w_enc, "W_dec": w_enc.T.contiguous(), "b_dec": 0.1 * torch.randn(D_IN, generator=g),
            "threshold": 0.5 * torch.rand(D_SAE, generator=g), **vectors}  # fmt: skip


W = weights()
X = torch.randn(60, D_IN, generator=torch.Generator().manual_seed(1))


def same(ours: LoadedSAE, expected: torch.Tensor, centred: bool = False) -> None:
    found = ours.encode(X)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)
    assert torch.equal(found > 0, expected > 0)
    assert 0 < float((found > 0).float().mean()) < 1


def jumprelu(pre: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return pre.relu() * (pre > threshold)


def topk(pre: torch.Tensor) -> torch.Tensor:
    values, at = pre.relu().topk(K)
    return torch.zeros_like(pre).scatter(1, at, values)


@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "jumprelu"])
def test_what_sae_lens_saves(architecture: str, tmp_path: Path) -> None:
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class

    sae_class, config_class = get_sae_class(architecture)
    own = {"k": K} if architecture == "topk" else {}
    theirs = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, **own))
    theirs.load_state_dict({name: W[name] for name in theirs.state_dict()})
    theirs.save_model(str(tmp_path))
    loaded = load_sae(str(tmp_path))
    same(loaded, SAE.load_from_disk(str(tmp_path)).encode(X))
    torch.testing.assert_close(loaded.reconstruct(X), theirs(X).detach(), rtol=1e-4, atol=1e-4)
    assert (loaded.d_in, loaded.d_sae, loaded.architecture) == (D_IN, D_SAE, architecture)


def gemma_params(folder: Path, path: str) -> None:
    (folder / path).mkdir(parents=True)
    arrays = {"w_enc": W["W_enc"], "w_dec": W["W_dec"], "b_enc": W["b_enc"], "b_dec": W["b_dec"]}
    np.savez(
        folder / path / "params.npz", threshold=W["threshold"].numpy(), **{k: v.numpy() for k, v in arrays.items()}
    )


@pytest.mark.parametrize(("part", "hook"), [("res", "blocks.20.hook_resid_post"), ("att", "blocks.20.attn.hook_z"), ("mlp", "blocks.20.hook_mlp_out")])  # fmt: skip
def test_gemma_scope_from_the_registry(part: str, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import gemma_2_sae_huggingface_loader as loader

    source = f"gemma-scope-9b-pt-{part}-canonical/layer_20/width_16k/canonical"
    entry = find(source)
    assert entry is not None
    hub.lay_out(tmp_path, entry.repo, lambda f: gemma_params(f, entry.path))
    hub.offline(monkeypatch, tmp_path)
    loaded = load_sae(source)
    assert loaded.metadata["hook_name"] == entry.hook == hook
    assert loaded.metadata["model_name"] == "google/gemma-2-9b"
    assert (loaded.metadata["context_size"], loaded.metadata["prepend_bos"]) == (1024, True)
    # Theirs takes the sizes from the repository's name; only these are set right.
    sizes = {"d_in": D_IN, "d_sae": D_SAE}
    small = lambda **kw: loader(**{**kw, "cfg_overrides": {**kw["cfg_overrides"], **sizes}})  # noqa: E731
    theirs = SAE.from_pretrained(entry.release, entry.sae_id, converter=small)
    if theirs.cfg.reshape_activations == "hook_z":
        theirs.turn_off_forward_pass_hook_z_reshaping()
    same(loaded, theirs.encode(X))
    same(loaded, jumprelu(X @ W["W_enc"] + W["b_enc"], W["threshold"]))


def test_gemma_scope_2_needs_no_network_for_what_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = search("gemma-scope-2-4b-pt-att layer_9_ 16k")[0]

    def write(folder: Path) -> None:
        (folder / entry.path).mkdir(parents=True)
        about = {"architecture": "jump_relu", "model_name": "gemma-v3-4b-pt",
                 "hf_hook_point_in": "model.layers.9.self_attn.o_proj.input"}  # fmt: skip
        (folder / entry.path / "config.json").write_text(json.dumps(about))
        tensors = {"w_enc": W["W_enc"], "w_dec": W["W_dec"], "b_enc": W["b_enc"], "b_dec": W["b_dec"]}
        save_file({**tensors, "threshold": W["threshold"]}, folder / entry.path / "params.safetensors")

    hub.lay_out(tmp_path, entry.repo, write)
    hub.offline(monkeypatch, tmp_path)
    loaded = load_sae(entry.source)
    assert loaded.metadata["hook_name"] == entry.hook == "blocks.9.attn.hook_z"
    # sae-lens asks the network for the sizes, even of what is cached.
    sizes = {"w_enc": [D_IN, D_SAE], "w_dec": [D_SAE, D_IN]}
    monkeypatch.setattr("sae_lens.loading.pretrained_sae_loaders.get_safetensors_tensor_shapes", lambda *_: sizes)
    from sae_lens import SAE

    theirs = SAE.from_pretrained(entry.release, entry.sae_id)
    theirs.turn_off_forward_pass_hook_z_reshaping()
    same(loaded, theirs.encode(X))
    same(loaded, jumprelu(X @ W["W_enc"] + W["b_enc"], W["threshold"]))


@pytest.mark.parametrize(
    ("source", "files", "about"),
    [
        ("llama_scope_lxr_8x/l5r_8x", ("hyperparams.json", "checkpoints/final.safetensors"),
         {"d_sae": 32, "jump_relu_threshold": 0.3, "dataset_average_activation_norm": {"in": 7.0}}),
        ("llama_scope_r1_distill/l5r_800m_slimpajama", ("config.json", "sae_weights.safetensors"), {"expansion_factor": 2}),
    ],
)  # fmt: skip
def test_llama_scope_from_the_registry(
    source: str, files: tuple[str, str], about: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens import SAE

    entry = find(source)
    assert entry is not None and entry.width == 32768

    def write(folder: Path) -> None:
        config, weights_file = (folder / entry.path / name for name in files)
        weights_file.parent.mkdir(parents=True)
        config.write_text(json.dumps({"d_model": D_IN, "hook_point_in": "blocks.5.hook_resid_post", **about}))
        tensors = {
            "encoder.weight": W["W_enc"][:, :32].T, "encoder.bias": W["b_enc"][:32],
            "decoder.weight": W["W_dec"][:32].T, "decoder.bias": W["b_dec"],
            "log_jumprelu_threshold": W["threshold"][:32].log(),
        }  # fmt: skip
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights_file)

    hub.lay_out(tmp_path, entry.repo, write)
    hub.offline(monkeypatch, tmp_path)
    loaded = load_sae(source)
    assert loaded.metadata["hook_name"] == entry.hook == "blocks.5.hook_resid_post"
    same(loaded, SAE.from_pretrained(entry.release, entry.sae_id, dtype="float32").encode(X))


def test_gpt2_small_res_jb_is_given_centred_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sae-lens SAE of before version 6, on a model whose weights TransformerLens had centred."""
    from sae_lens import SAE

    from labeling.harvest import open_reference

    def write(folder: Path) -> None:
        at = folder / "blocks.2.hook_resid_pre"
        at.mkdir()
        config = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "hook_point": "blocks.2.hook_resid_pre",
                  "model_name": "gpt2-small", "context_size": 128, "device": "cpu", "hook_point_head_index": None}  # fmt: skip
        (at / "cfg.json").write_text(json.dumps(config))
        tensors = {name: W[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
        save_file({**tensors, "scaling_factor": torch.ones(D_IN)}, at / "sae_weights.safetensors")

    source = "gpt2-small-res-jb/blocks.2.hook_resid_pre"
    entry = find(source)
    assert entry is not None
    hub.lay_out(tmp_path / "hub", entry.repo, write)
    hub.offline(monkeypatch, tmp_path / "hub")
    reference, loaded = open_reference(str(fakes.tiny_gpt2(tmp_path / "gpt2", width=D_IN)), source, dtype=torch.float32)
    assert reference.hook.name == "blocks.1.hook_resid_post"  # what block 2 reads
    assert reference.context == 128
    theirs = SAE.from_pretrained(*source.split("/", 1))
    same(loaded, theirs.encode(X - X.mean(-1, keepdim=True)))
    assert not torch.allclose(loaded.encode(X), theirs.encode(X))
    error = loaded.reconstruct(X) - X
    torch.testing.assert_close(error, theirs(X - X.mean(-1, keepdim=True)) - (X - X.mean(-1, keepdim=True)))


def dictionary(folder: Path, kind: str, tensors: dict[str, torch.Tensor], pickled: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    trainer = {"dict_class": kind, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 4, "lm_name": "EleutherAI/pythia-70m-deduped",
               "submodule_name": "resid_post_layer_4", "k": K}  # fmt: skip
    (folder / "config.json").write_text(
        json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128, "d_submodule": D_IN}})
    )
    tensors = {name: t.contiguous() for name, t in tensors.items()}
    if pickled:
        torch.save(tensors, folder / "ae.pt")
    else:
        save_file(tensors, folder / "ae.safetensors")
    return folder


LINEAR = {"encoder.weight": W["W_enc"].T, "decoder.weight": W["W_dec"].T}
DICTIONARIES: dict[str, dict[str, torch.Tensor]] = {
    "AutoEncoder": {**LINEAR, "encoder.bias": W["b_enc"], "bias": W["b_dec"]},
    "GatedAutoEncoder": {**LINEAR, "decoder_bias": W["b_dec"], "r_mag": W["r_mag"], "mag_bias": W["b_mag"], "gate_bias": W["b_gate"]},
    "AutoEncoderTopK": {**LINEAR, "encoder.bias": W["b_enc"], "b_dec": W["b_dec"], "threshold": torch.tensor(0.3), "k": torch.tensor(K)},
    "BatchTopKSAE": {**LINEAR, "encoder.bias": W["b_enc"], "b_dec": W["b_dec"], "threshold": torch.tensor(0.3), "k": torch.tensor(K)},
    "JumpReluAutoEncoder": {n: W[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")},
}  # fmt: skip


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_dictionary_learning_as_sae_lens_reads_its_pickles(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sae-lens has a hub loader for the pickle only; converted to safetensors, ours gives the same."""
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import dictionary_learning_sae_huggingface_loader_1 as loader

    hub.lay_out(
        tmp_path / "hub", "someone/saes", lambda f: dictionary(f / "trainer_0", kind, DICTIONARIES[kind], pickled=True)
    )
    hub.offline(monkeypatch, tmp_path / "hub")
    theirs = SAE.from_pretrained("someone/saes", "trainer_0", converter=loader)
    loaded = load_sae(str(dictionary(tmp_path / "trainer_0", kind, DICTIONARIES[kind])))
    same(loaded, theirs.encode(X))
    assert loaded.metadata["hook_name"] == "blocks.4.hook_resid_post"
    assert loaded.metadata["context_size"] == 128
    with pytest.raises(ValueError, match="is pickled"):
        load_sae("someone/saes/trainer_0")


def test_a_pickled_dictionary_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ae\.pt is pickled.*convert the weights to \.safetensors"):
        load_sae(str(dictionary(tmp_path / "trainer_0", "AutoEncoder", DICTIONARIES["AutoEncoder"], pickled=True)))


def test_sparsify_by_its_own_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sae-lens reads these wrongly; sparsify encodes relu((x - b_dec) @ encoder + b), the k largest of it."""
    folder = tmp_path / "sae" / "layers.12"
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(
        json.dumps({"expansion_factor": 2, "normalize_decoder": True, "num_latents": 0, "k": K, "d_in": D_IN})
    )
    (folder.parent / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-160m", "ctx_len": 2048}))
    save_file({"encoder.weight": W["W_enc"].T.contiguous(), "encoder.bias": W["b_enc"], "W_dec": W["W_dec"], "b_dec": W["b_dec"]},
              folder / "sae.safetensors")  # fmt: skip
    loaded = load_sae(str(folder))
    same(loaded, topk((X - W["b_dec"]) @ W["W_enc"] + W["b_enc"]))
    torch.testing.assert_close(loaded.reconstruct(X), loaded.encode(X) @ W["W_dec"] + W["b_dec"])
    assert loaded.metadata["hook_name"] == "blocks.12.hook_resid_post"
    hub.lay_out(
        tmp_path / "hub", "EleutherAI/sae-tiny", lambda f: shutil.copytree(folder.parent, f, dirs_exist_ok=True)
    )
    hub.offline(monkeypatch, tmp_path / "hub")
    fetched = load_sae("EleutherAI/sae-tiny/layers.12")
    same(fetched, loaded.encode(X))
    for found in (loaded, fetched):  # the model is named in the run's configuration, above
        assert found.metadata["model_name"] == "EleutherAI/pythia-160m"


def test_a_folder_without_an_sae_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cfg\.json with sae_weights\.safetensors"):
        load_sae(str(tmp_path))
    with pytest.raises(ValueError, match="neither"):
        load_sae("nonsense")
    (tmp_path / "cfg.json").write_text('{"d_in": 16}')
    save_file({"W_enc": W["W_enc"]}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ValueError, match="d_sae"):
        load_sae(str(tmp_path))
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": 16, "d_sae": 99}))
    with pytest.raises(ValueError, match="says d_in 16 and d_sae 99, its weights have 16 and 40"):
        load_sae(str(tmp_path))
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": 16, "d_sae": D_SAE}))
    with pytest.raises(ValueError, match="do not fit"):
        load_sae(str(tmp_path))


def test_the_registry_names_what_it_can_and_refuses_with_reasons() -> None:
    assert len(entries()) > 13_000
    paper = find("gemma-scope-9b-pt-res-canonical/layer_31/width_16k/canonical")
    assert paper is not None and paper.refusal is None
    assert (paper.model, paper.hook, paper.width) == ("google/gemma-2-9b", "blocks.31.hook_resid_post", 16384)
    assert paper.neuronpedia == "gemma-2-9b/31-gemmascope-res-16k"
    assert paper in search("9B-pt-res 31 16k")
    wide = find("gemma-scope-9b-pt-res-canonical/layer_9/width_131k/canonical")
    assert wide is not None and wide.width == 131_072
    assert search("no such words anywhere") == []
    usable = search("")
    assert len(usable) > 8000
    assert all(e.hook and e.width for e in usable if e.loader in ("gemma_2", "gemma_3", "llama_scope"))
    for release, reason in (
        ("qwen-scope-3-8b-base-w64k-l50", "pickled"),
        ("gemma-scope-2b-pt-transcoders", "transcoder"),
    ):
        (first, *_) = search(release, usable=False)
        assert first.refusal is not None and reason in first.refusal
        with pytest.raises(ValueError, match=reason):
            load_sae(first.source)
    with pytest.raises(ValueError, match="has no 'layer_99'"):
        load_sae("gemma-scope-9b-pt-res-canonical/layer_99")


def test_what_is_neither_cached_nor_reachable_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.offline(monkeypatch, tmp_path)
    for source in (
        "gemma-scope-9b-pt-res-canonical/layer_31/width_16k/canonical",
        "gpt2-small-res-jb/blocks.8.hook_resid_pre",
        "owner/repo/folder",
    ):
        with pytest.raises(ValueError, match="fetched"):
            load_sae(source)
