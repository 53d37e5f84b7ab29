"""A hook reads the same numbers as TransformerLens's name for it says, in every family of models."""

from pathlib import Path
from typing import Any

import pytest
import torch

from labeling.hooks import Hook, Kind, hook_at, hook_of, parse_hook
from labeling.references import Reference
from tests import fakes

torch.set_num_threads(1)  # on matrices this small, threads only wait for each other
SIZES: dict[str, Any] = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GQA = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 2}
TOKENS = torch.tensor([[0, 5, 6, 7, 8]])


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=3, n_head=4))


def _gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM(Gemma2Config(**SIZES, **GQA))


def _gemma3() -> Any:
    """With a vision tower as deep as the language model."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config={**SIZES, **GQA}, vision_config=vision, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


def _neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, intermediate_size=48))


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SIZES, intermediate_size=48))


MODELS = {"gpt2": _gpt2, "gemma2": _gemma2, "gemma3": _gemma3, "neox": _neox, "bert": _bert}


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MODELS[request.param]().save_pretrained(path)
    return str(fakes.tiny_tokenizer(path))


def _read(folder: str, layer: int, kind: Kind = "resid_post") -> tuple[Reference, torch.Tensor]:
    reference = Reference(folder, layer, dtype=torch.float32, kind=kind)
    return reference, reference.activations(TOKENS)


def test_what_a_block_adds_is_attention_then_mlp(folder: str) -> None:
    """resid_post - resid_pre = attn_out + mlp_out; and the heads, projected, are what attention adds."""
    after, post = _read(folder, 1)
    _, pre = _read(folder, 0)
    _, attn = _read(folder, 1, "attn_out")
    _, mlp = _read(folder, 1, "mlp_out")
    heads, z = _read(folder, 1, "z")
    assert z.shape[-1] == heads.d_in
    assert after.d_in == after.d_model == 32
    if "bert" in folder:  # norms after it adds: the block's output is the normed sum
        return
    torch.testing.assert_close(post - pre, attn + mlp, rtol=1e-4, atol=1e-5)


def test_the_embedding_is_what_block_0_reads(folder: str) -> None:
    reference, pre = _read(folder, 0, "resid_pre")
    with torch.inference_mode():
        states = reference.model(**reference.inputs(TOKENS), output_hidden_states=True).hidden_states
    torch.testing.assert_close(pre, states[0])


def test_several_hooks_in_one_pass_read_what_each_reads_alone(folder: str) -> None:
    reference, first = _read(folder, 0)
    together = reference.activations_at([Hook(0), Hook(2), Hook(1, "mlp_out")], TOKENS)
    torch.testing.assert_close(together[0], first)
    torch.testing.assert_close(together[2], _read(folder, 1, "mlp_out")[1])


def test_hooked_modules_go_by_their_hugging_face_path(folder: str) -> None:
    for kind in ("resid_post", "z"):
        reference = Reference(folder, 1, dtype=torch.float32, kind=kind)  # type: ignore[arg-type]
        assert parse_hook(reference.module_name) == reference.hook
    if "gemma3" in folder:
        assert reference.module_name == "model.language_model.layers.1.self_attn.o_proj.input"


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("blocks.12.hook_resid_post", Hook(12)),
        ("blocks.8.hook_resid_pre", Hook(7)),
        ("blocks.0.hook_resid_pre", Hook(0, "resid_pre")),
        ("blocks.3.hook_mlp_out", Hook(3, "mlp_out")),
        ("blocks.3.attn.hook_z", Hook(3, "z")),
        ("model.layers.20", Hook(20)),
        ("model.layers.20.output", Hook(20)),
        ("model.language_model.layers.7.output", Hook(7)),
        ("model.layers.5.self_attn.o_proj.input", Hook(5, "z")),
        ("model.layers.5.post_feedforward_layernorm.output", Hook(5, "mlp_out")),
        ("transformer.h.4.attn.c_proj.input", Hook(4, "z")),
        ("transformer.h.4.mlp", Hook(4, "mlp_out")),
        ("gpt_neox.layers.2", Hook(2)),
        ("encoder.layer.3", Hook(3)),
    ],
)
def test_names_of_both_libraries(name: str, hook: Hook) -> None:
    assert parse_hook(name) == hook


@pytest.mark.parametrize("name", ["hook_embed", "blocks.3.hook_mlp_in", "model.layers.4.input_layernorm", "blocks.x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        parse_hook(name)


def test_metadata_that_names_two_hooks_is_refused() -> None:
    assert hook_of({}) is None
    assert hook_of({"hook_layer": 4}) == Hook(4)
    assert hook_of({"hook_name": "blocks.3.hook_resid_pre", "hf_hook_name": "model.layers.2"}) == Hook(2)
    with pytest.raises(ValueError, match="two hooks"):
        hook_of({"hook_name": "blocks.3.hook_resid_post", "hf_hook_name": "model.layers.2"})


def test_an_encoder_gives_a_text_the_same_states_whatever_it_is_padded_to(tmp_path: Path) -> None:
    reference = Reference(str(fakes.tiny_encoder(tmp_path / "mini")), 1, context=64, dtype=torch.float32)
    assert not reference.causal
    ids = [t.ids for t in reference.tokenize([d.text for d in fakes.corpus(5)])]
    together: dict[tuple[int, int], torch.Tensor] = {}
    for batch, acts in reference.stream(ids, batch_tokens=256):
        for window, part in zip(batch, acts.split([w.end - w.scored_from for w in batch]), strict=True):
            together[window.document, window.start] = part
    assert len({document for document, _ in together}) == 5
    cls, sep = reference.prefix, reference.suffix
    for (document, start), part in together.items():
        if start == 0:
            fed = torch.tensor([[*cls, *ids[document][: 64 - 2].tolist(), *sep]])
            with torch.inference_mode():
                states = reference.model(fed, output_hidden_states=True).hidden_states[2]
            torch.testing.assert_close(part, states[0, 1 : 1 + len(part)], rtol=1e-4, atol=1e-4)


def test_a_given_layer_fills_in_what_the_metadata_leaves_out_and_may_not_contradict_it() -> None:
    named = {"hook_name": "blocks.3.hook_resid_pre"}
    assert hook_at("sae", named, None) == hook_at("sae", named, 2) == Hook(2)
    assert hook_at("sae", {}, 0) == Hook(0)
    with pytest.raises(ValueError, match="sae does not say which block it reads; give the layer"):
        hook_at("sae", {}, None)
    with pytest.raises(ValueError, match="sae reads the output of block 2; give layer 2 or none, not 0"):
        hook_at("sae", named, 0)
