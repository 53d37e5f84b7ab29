"""The hook reads what its name says, and windows feed every token once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.references import Reference, load_model, load_tokenizer
from labeling.tokens import windows
from tests import fakes

torch.set_num_threads(1)  # on matrices this small, threads only wait for each other


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(fakes.tiny_reference(tmp_path_factory.mktemp("models") / "reference"))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [d.text for d in fakes.corpus(7)]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_block_l_is_hidden_state_l_plus_one(folder: str, texts: list[str], layer: int) -> None:
    """Reading `hidden_states[L]` is the off-by-one of the authors' own script (METHOD, traps)."""
    reference = Reference(folder, layer, dtype=torch.float32)
    tokens = torch.tensor([[0, *reference.tokenize(texts[:1])[0].ids]])
    with torch.inference_mode():
        states = reference.model(tokens, output_hidden_states=True).hidden_states
    acts = reference.activations(tokens)
    torch.testing.assert_close(acts, states[layer + 1])
    assert not torch.allclose(acts, states[layer], atol=1e-3)


def test_the_last_block_is_read_before_the_final_norm(folder: str, texts: list[str]) -> None:
    """The last of `hidden_states` is normed, which no SAE was trained on; the hook sees the block itself."""
    reference = Reference(folder, 3, dtype=torch.float32)
    tokens = torch.tensor([[0, *reference.tokenize(texts[:1])[0].ids]])
    with torch.inference_mode():
        normed = reference.model(tokens, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(reference.model.model.norm(reference.activations(tokens)), normed)


def test_blocks_after_the_hook_do_not_run(folder: str) -> None:
    reference = Reference(folder, 1, dtype=torch.float32)
    ran: list[int] = []
    for i, block in enumerate(reference.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    reference.activations(torch.tensor([[0, 5, 6]]))
    assert ran == [0, 1]


def test_every_window_begins_with_bos_which_is_never_scored(folder: str, texts: list[str]) -> None:
    reference = Reference(folder, 1, context=32, dtype=torch.float32)
    ids = [t.ids for t in reference.tokenize(texts)]
    for batch in reference.plan([len(i) for i in ids], batch_tokens=128, overlap=8):
        tokens, scored = reference.batch(batch, ids)
        assert (tokens[:, 0] == reference.tokenizer.bos_token_id).all()
        assert not scored[:, 0].any()
        assert tokens.shape[1] <= 32


def test_without_bos_there_is_no_prefix(folder: str) -> None:
    reference = Reference(folder, 1, dtype=torch.float32, prepend_bos=False)
    (batch,) = reference.plan([3])
    tokens, scored = reference.batch(batch, [np.array([7, 8, 9], np.int32)])
    assert tokens.tolist() == [[7, 8, 9]]
    assert scored.all()


def test_windows_score_each_token_once_and_in_order(folder: str, texts: list[str]) -> None:
    reference = Reference(folder, 1, context=24, dtype=torch.float32)
    ids = [t.ids for t in reference.tokenize(texts)]
    times = [np.zeros(len(i), int) for i in ids]
    for batch in reference.plan([len(i) for i in ids], batch_tokens=96, overlap=8):
        tokens, scored = reference.batch(batch, ids)
        assert tokens.numel() <= 96 + 24 * len(batch)
        for row, window in enumerate(batch):
            times[window.document][window.scored_from : window.end] += 1
            fed = tokens[row][scored[row]].numpy()
            np.testing.assert_array_equal(fed, ids[window.document][window.scored_from : window.end])
    assert all((t == 1).all() for t in times)


@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 39))
@settings(max_examples=200, deadline=None)
def test_any_windowing_covers_once_with_full_context(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    times = np.zeros(length, int)
    for start, end, scored_from in windows(length, size, overlap):
        assert end - start <= size
        assert start == 0 or scored_from - start == overlap
        times[scored_from:end] += 1
    assert (times == 1).all()


def test_a_documents_activations_do_not_depend_on_its_neighbours(folder: str, texts: list[str]) -> None:
    """Padding and batching change nothing: the model is causal and pads on the right."""
    reference = Reference(folder, 2, context=256, dtype=torch.float32)
    ids = [t.ids for t in reference.tokenize(texts)]
    together: dict[int, torch.Tensor] = {}
    for batch, acts in reference.stream(ids):
        for window, part in zip(batch, acts.split([w.end - w.scored_from for w in batch]), strict=True):
            together[window.document] = part
    for i, document in enumerate(ids):
        ((_, alone),) = reference.stream([document])
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)


def test_a_block_the_model_does_not_have_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match="blocks 0 to 3"):
        Reference(folder, 4)


def test_a_gguf_file_gives_the_states_of_the_safetensors(folder: str, texts: list[str], tmp_path: Path) -> None:
    packed = Reference(str(fakes.as_gguf(Path(folder), tmp_path / "gguf" / "tiny.gguf")), 2, dtype=torch.float32)
    plain = Reference(folder, 2, dtype=torch.float32)
    for a, b in zip(packed.tokenize(texts), plain.tokenize(texts), strict=True):
        assert a.ids.tolist() == b.ids.tolist()
    ids = [t.ids for t in plain.tokenize(texts)]
    for (_, mine), (_, expected) in zip(packed.stream(ids), plain.stream(ids), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="pickled"):
        load_model(str(tmp_path))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load_model(str(tmp_path / "nowhere"))


def test_a_tokenizer_that_brings_code_is_refused(tmp_path: Path) -> None:
    folder = fakes.tiny_tokenizer(tmp_path / "tokenizer")
    assert load_tokenizer(str(folder)).tokenize("a")
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    with pytest.raises(ValueError, match="auto_map"):
        load_tokenizer(str(folder))
