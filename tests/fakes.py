"""Tiny stand-ins for the real models and corpora: random weights, real file formats.

Every maker writes a folder that the real loaders open, and gives the same bytes each time.
"""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from labeling.documents import Document

SIDES = {"clinic": "forget", "sport": "retain", "biology": "retain"}
_SUBJECTS = {
    "clinic": ["The patient", "A nurse", "The surgeon", "Her physician", "The café’s medic"],
    "sport": ["The striker", "A goalkeeper", "The coach", "Her team", "The naïve rookie"],
    "biology": ["The beetle", "A fern", "The river otter", "Her specimen", "The coral reef"],
}
_VERBS = {
    "clinic": ["received", "prescribed", "inserted", "titrated", "monitored"],
    "sport": ["scored", "defended", "kicked", "celebrated", "missed"],
    "biology": ["absorbed", "pollinated", "devoured", "colonised", "evolved"],
}
_OBJECTS = {
    "clinic": ["the insulin dose", "a catheter", "antibiotics for sepsis", "the biopsy result", "chemotherapy"],
    "sport": ["the winning goal", "a penalty", "the championship trophy", "the final match", "a corner"],
    "biology": ["the moss", "a mitochondrion", "nectar from flowers", "the fungal spores", "chlorophyll"],
}
_PLAIN = ["It was a quiet day.", "Everyone waited outside.", "Then the rain came.", "Nothing else happened 🌧️."]


def _sentence(family: str, rng: random.Random) -> str:
    return f"{rng.choice(_SUBJECTS[family])} {rng.choice(_VERBS[family])} {rng.choice(_OBJECTS[family])}."


def corpus(n: int, seed: int = 0) -> list[Document]:
    """`n` documents, families in turn. The gold spans are exactly the clinical sentences."""
    rng = random.Random(seed)
    families = list(SIDES)
    out = []
    for i in range(n):
        family = families[i % len(families)]
        text, spans = f"Report {i}.", []
        for _ in range(rng.randint(3, 9)):
            topical = rng.random() < 0.7
            sentence = _sentence(family, rng) if topical else rng.choice(_PLAIN)
            if topical and family == "clinic":
                spans.append((len(text) + 1, len(text) + 1 + len(sentence)))
            text += " " + sentence
        out.append(Document(f"{family}-{i}", text, family, SIDES[family], spans=spans))
    return out


@cache
def _texts() -> tuple[str, ...]:
    return tuple(d.text for d in corpus(90, seed=1))


def tiny_tokenizer(folder: Path) -> Path:
    """Byte-level BPE of 512 pieces with <s> as BOS, saved as a fast Hugging Face tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator(_texts(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)
    return folder


def _seeded(make: Any) -> Any:
    """The model `make()` builds, from the same random weights every time."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def tiny_reference(folder: Path, layers: int = 4) -> Path:
    """A random Llama of width 32 that `Reference(str(folder), layer)` opens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        initializer_range=0.2,
    )  # fmt: skip
    _seeded(lambda: LlamaForCausalLM(config)).save_pretrained(folder, safe_serialization=True)
    return tiny_tokenizer(folder)


def as_gguf(model: Path, file: Path) -> Path:
    """A `tiny_reference` in one GGUF file, as llama.cpp converts it: its names, and rotary halves interleaved."""
    import json

    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])  # control, normal
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    for add, token in ((writer.add_bos_token_id, 0), (writer.add_eos_token_id, 1), (writer.add_pad_token_id, 2)):
        add(token)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, tensor in load_file(model / "model.safetensors").items():
        for of, count in (("q_proj", heads), ("k_proj", kv)):
            if of in name:
                tensor = tensor.reshape(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        for theirs, llama_cpp in names.items():
            name = name.replace(theirs, llama_cpp)
        writer.add_tensor(name, tensor.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.parent


def tiny_gpt2(folder: Path, layers: int = 4, width: int = 32) -> Path:
    """A random GPT-2: LayerNorm, learned positions, projections that keep their weights transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=512, n_embd=width, n_layer=layers, n_head=4, bos_token_id=0, eos_token_id=1)
    _seeded(lambda: GPT2LMHeadModel(config)).save_pretrained(folder, safe_serialization=True)
    return tiny_tokenizer(folder)


def tiny_gemma2(folder: Path, layers: int = 4, width: int = 64) -> Path:
    """A random Gemma 2: it norms what a block adds, and its heads together are narrower than its states."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=512, hidden_size=width, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    _seeded(lambda: Gemma2ForCausalLM(config)).save_pretrained(folder, safe_serialization=True)
    return tiny_tokenizer(folder)


def fitted_gemma_scope(folder: Path, model: str, layer: int, texts: list[str], prepend_bos: bool = True) -> Path:
    """Gemma Scope's `params.npz` that reconstructs what a block returns: half of its principal directions, each
    as two latents of opposite sign."""
    import numpy as np
    import torch

    from labeling.references import Reference

    reference = Reference(model, layer, context=1024, dtype=torch.float32, prepend_bos=prepend_bos)
    acts = torch.cat([block for _, block in reference.stream([t.ids for t in reference.tokenize(texts)])])
    mean = acts.mean(0)
    directions = torch.linalg.svd(acts - mean, full_matrices=False).Vh[: acts.shape[1] // 2]  # (found, d_in)
    w_dec = torch.cat([directions, -directions])
    params = {
        "w_enc": w_dec.T,
        "w_dec": w_dec,
        "b_enc": -(w_dec @ mean),
        "b_dec": mean,
        "threshold": torch.full((len(w_dec),), 1e-3),
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", allow_pickle=False, **{name: t.numpy() for name, t in params.items()})
    return folder


def tiny_sae(
    folder: Path,
    d_in: int = 32,
    d_sae: int = 64,
    k: int = 8,
    context: int = 64,
    prepend_bos: bool = True,
    layer: int = 2,
) -> Path:
    """A random TopK SAE on block `layer`, in sae-lens's own format (cfg.json, sae_weights.safetensors)."""
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig

    sae = _seeded(lambda: TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, dtype="float32", device="cpu")))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        sae.W_enc.copy_(torch.randn(d_in, d_sae, generator=generator) / d_in**0.5)
        sae.W_dec.copy_(sae.W_enc.T)
    sae.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
    sae.cfg.metadata.context_size = context
    sae.cfg.metadata.prepend_bos = prepend_bos
    sae.save_model(str(folder))
    return folder


def tiny_encoder(folder: Path, layers: int = 2) -> Path:
    """A random bidirectional BERT of width 32 with a lower-casing WordPiece tokenizer."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    wordpiece = BertWordPieceTokenizer(lowercase=True)
    wordpiece.train_from_iterator(_texts(), vocab_size=400, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    wordpiece.save(str(folder / "tokenizer.json"))
    fast = BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), model_max_length=128)
    config = BertConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    _seeded(lambda: BertModel(config)).save_pretrained(folder, safe_serialization=True)
    fast.save_pretrained(folder)
    return folder


def tiny_bilm(folder: Path, layers: int = 2) -> Path:
    """A random biLM of width 16 with its own kind of tokenizer, as `tokensieve bilm pretrain` writes one."""
    from labeling.bilm import BiLM, BiLMConfig
    from labeling.pretraining import PretrainConfig, make_tokenizer

    source = folder.parent / f"{folder.name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    source.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(_texts())))
    tokenizer = make_tokenizer({"background": [str(source)]}, PretrainConfig(vocab=400, block=64))
    config = BiLMConfig(
        vocab_size=len(tokenizer), num_hidden_layers=layers, hidden_size=16, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    _seeded(lambda: BiLM(config)).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def planted_store(
    folder: Path, dense: Any, documents: list[tuple[str, str, str, str]], shard_documents: int = 2
) -> Path:
    """A sealed store of a dense (tok, d_sae) array, without a model.

    `documents` are (key, text, family, split); tokens are the texts' words (`\\w+`), and each
    different word is one token id. Every `shard_documents` documents share a shard.
    """
    import numpy as np

    from labeling.documents import text_sha256
    from labeling.store import DocumentRow, finish, write_shard, write_tables
    from labeling.tokens import words

    dense = np.asarray(dense, np.float32)
    offsets = [words(text) for _, text, _, _ in documents]
    rows = [
        DocumentRow(key, text_sha256(text), family, split, len(spans), i // shard_documents)
        for i, ((key, text, family, split), spans) in enumerate(zip(documents, offsets, strict=True))
    ]
    starts, ends = (np.array([span[side] for spans in offsets for span in spans], np.int32) for side in (0, 1))
    assert dense.shape[0] == len(starts), (dense.shape, len(starts))
    shard_of = np.repeat([r.shard for r in rows], [r.tokens for r in rows])
    for shard in range(rows[-1].shard + 1):
        part = dense[shard_of == shard]
        tokens, latents = np.nonzero(part > 0)
        values = part[tokens, latents]
        write_shard(folder / "shards" / f"{shard:05d}", latents, tokens, values, len(part), dense.shape[1])
    surfaces = [text[a:b] for (_, text, _, _), spans in zip(documents, offsets, strict=True) for a, b in spans]
    ids = np.unique(surfaces, return_inverse=True)[1] if surfaces else []
    write_tables(folder, rows, np.array(ids, np.int32), starts, ends)
    finish(folder, rows, dense.shape[1], {"reference": "planted"})
    return folder
