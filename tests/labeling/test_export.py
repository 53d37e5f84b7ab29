import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeling.artifacts import ArtifactError, verify
from labeling.card import model_card
from labeling.documents import Document
from labeling.examples import TrainConfig
from labeling.export import METRICS, SETTINGS, copy_with, with_metrics, with_threshold, write_classifier
from labeling.onnx_files import INT8, ONNX, OnnxModel, can_write
from labeling.predict import batched, load_classifier, pick_precision, predict
from labeling.train import untrained
from tests.fakes import corpus, tiny_encoder

TEXT = "The nurse inserted a catheter."
INFO = {
    "name": "clinic", "definition": {"includes": "Doses.", "excludes": "Excludes wellness."},
    "validation": {"f1": 0.8125, "words": 9}, "backbone": "minilm", "licence": "Apache-2.0",
    "data": {"documents": 3, "families": {"clinic": 2, "sport": 1}, "sha256": "ab" * 32},
    "rule": {"version": 2, "sha256": "cd" * 32, "latents": [3, 14], "config": {"k": 2, "z": 2.0},
             "functions": [{"kind": "terms", "name": "doses"}]},
}  # fmt: skip
TABLE: dict[str, Any] = {
    "f1": 0.7, "precision": 0.8, "recall": 0.62, "f2": 0.65, "auroc": 0.9, "pauroc": 0.75, "fpr": 0.03,
    "documents": 4, "words": 100, "forget_words": 30, "intervals": {"f1": [0.6, 0.8], "fpr": [0.01, 0.05]},
    "families": {"sport": {"side": "retain", "fpr": 0.04, "recall": None, "intervals": {"fpr": [0.0, 0.1]}}},
    "errors": {"false_positives": [["sport-1", 0, 4, 0.9]]},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    classifier = untrained(TrainConfig(str(tiny_encoder(root / "encoder")), window=64, overlap=16))
    with torch.no_grad():
        classifier.head.weight.mul_(8)  # random, but not all 0.5
    write_classifier(classifier, root / "made", INFO)
    return root / "made"


def test_the_folder_holds_what_is_documented_and_no_pickle(folder: Path) -> None:
    files = set(verify(folder, "classifier")["files"])
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokensieve.json", "README.md"} <= files
    assert {ONNX, INT8} <= files or not can_write()
    assert not {name for name in files if name.endswith((".bin", ".pt", ".pkl"))}


def test_settings_come_back_as_given(folder: Path) -> None:
    settings = json.loads((folder / SETTINGS).read_text())
    assert {k: settings[k] for k in ("threshold", "window", "overlap", "smooth", "architecture")} == {
        "threshold": 0.5, "window": 64, "overlap": 16, "smooth": 0, "architecture": "bert",
    }  # fmt: skip
    loaded = load_classifier(folder)
    assert (loaded.window, loaded.overlap, loaded.settings["name"]) == (64, 16, "clinic")


def test_a_transformers_user_needs_nothing_of_ours(folder: Path) -> None:
    from transformers import pipeline

    found = pipeline("token-classification", model=str(folder))(TEXT)
    assert {f["entity"] for f in found} <= {"RETAIN", "FORGET"} and len(found) >= 6


def test_torch_transformers_and_onnxruntime_agree(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    from transformers import AutoModelForTokenClassification

    classifier = load_classifier(folder)
    texts = [d.text for d in corpus(4)]
    encoded = classifier.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    windows = [np.array(e.ids[: 20 + 10 * i], np.int32) for i, e in enumerate(encoded)]  # padded differently
    ids, mask = batched(classifier, windows)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids), torch.from_numpy(mask)).logits.softmax(-1)[..., 1].numpy()
    real = mask.astype(bool)
    found = softmax(OnnxModel(folder / ONNX, 1).logits(ids, mask))
    np.testing.assert_allclose(found[real], theirs[real], atol=1e-3)
    assert theirs[real].std() > 0.05
    found = softmax(OnnxModel(folder / INT8, 1).logits(ids, mask))
    assert np.abs(found - theirs)[real].mean() < 0.02
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    for ours, text in zip(predict(classifier, documents), texts, strict=True):
        alone = classifier.tokenizer(text, return_tensors="pt")
        if alone["input_ids"].shape[1] <= classifier.window:
            with torch.no_grad():
                expected = model(**alone).logits.softmax(-1)[0, 1:-1, 1].numpy()
            np.testing.assert_allclose(ours.p, expected, atol=1e-3 if classifier.model.dtype == torch.float32 else 0.03)


def softmax(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))


def test_the_cards_recipe_runs_without_torch(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    card = (folder / "README.md").read_text(encoding="utf-8")
    recipe = card.split("(no torch, no transformers):\n```python\n")[1].split("```")[0]
    recipe = recipe.replace("THIS_FOLDER", str(folder))
    recipe += f"import sys; assert not {{'torch', 'transformers'}} & set(sys.modules); np.save({str(tmp_path / 'p.npy')!r}, p_forget)"
    subprocess.run([sys.executable, "-c", recipe], check=True, cwd=tmp_path)
    [expected] = predict(load_classifier(folder), [Document("a", TEXT)])
    np.testing.assert_allclose(np.load(tmp_path / "p.npy")[1:-1], expected.p, atol=0.03)


def test_int8_scores_every_token_and_nearly_alike(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    documents = corpus(5)
    exact, fast = load_classifier(folder, "full"), load_classifier(folder, "int8")
    assert exact.onnx is None and fast.onnx is not None and fast.identity == exact.identity
    for a, b in zip(predict(exact, documents), predict(fast, documents), strict=True):
        np.testing.assert_array_equal(a.starts, b.starts)
        assert np.abs(a.p - b.p).mean() < 0.02


def test_a_precision_that_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of auto, full, int8"):
        load_classifier(folder, "fp8")
    assert pick_precision(tmp_path) == "full"  # no int8 file in it
    with pytest.raises(ValueError, match="exported without ONNX"):
        OnnxModel(tmp_path / INT8, 1)


def test_nothing_in_the_folder_tells_where_it_was_made(folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix in (".json", ".md", ".onnx"):
            assert str(folder.parent).encode() not in path.read_bytes(), path.name


def test_the_head_stays_exact_when_the_rest_runs_in_bf16(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.testing.assert_close(
        load_classifier(folder).head.weight,
        load_file(folder / "model.safetensors")["classifier.weight"],
        rtol=0,
        atol=0,
    )


def test_other_metrics_and_another_threshold_make_another_folder(folder: Path, tmp_path: Path) -> None:
    copy_with(folder, with_metrics(json.loads((folder / SETTINGS).read_text()), {"gold": TABLE}), tmp_path / "measured")
    measured = load_classifier(tmp_path / "measured")
    assert measured.identity == load_classifier(folder).identity  # its scores are the same
    assert "errors" not in json.loads((tmp_path / "measured" / METRICS).read_text())["gold"]
    with_threshold(folder, 0.25, {"by": "fpr", "value": 0.02}, tmp_path / "lower")
    lower = load_classifier(tmp_path / "lower")
    assert lower.threshold == 0.25 and lower.settings["threshold_chosen"] == {"by": "fpr", "value": 0.02}
    assert lower.identity != measured.identity and "Not measured yet" in (tmp_path / "lower" / "README.md").read_text()
    assert load_classifier(folder).threshold == 0.5


def test_a_damaged_folder_is_not_copied(folder: Path, tmp_path: Path) -> None:
    copy_with(folder, {}, tmp_path / "copy")
    weights = tmp_path / "copy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        copy_with(tmp_path / "copy", {}, tmp_path / "again")
    assert not (tmp_path / "again").exists() and not (folder / "model.safetensors").read_bytes().endswith(b"x")


def test_the_card_says_what_is_flagged_from_what_and_how_well(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and 'license: "apache-2.0"' in card
    for said in ("Excludes wellness.", "| f1 | 0.8125 |", "*weak*", "clinic (2), sport (1)", "abab", "2 latents (3, 14)",
                 "terms `doses`", "k=2, z=2.0", "under Apache-2.0"):  # fmt: skip
        assert said in card, said
    measured = model_card({**INFO, "threshold": 0.5, "window": 64, "overlap": 16, "smooth": 0}, {"gold": TABLE})
    assert "| F1 | 0.700 [0.600, 0.800] |" in measured and "| sport | retain | 0.040 [0.000, 0.100] | – |" in measured
    assert "{type: f1, value: 0.7000}" in measured


def test_the_cards_head_is_yaml_whatever_the_name(folder: Path) -> None:
    import yaml

    settings = {"name": 'a: "b" #', "backbone": "org/model", "threshold": 0.5, "window": 64, "overlap": 16, "smooth": 0}
    head = yaml.safe_load(model_card(settings, {"gold": TABLE}).split("---\n")[1])
    assert head["model-index"][0]["name"] == 'a: "b" #' and head["base_model"] == "org/model"
    assert "model-index" not in model_card(settings)


def test_a_card_can_be_written_without_a_definition() -> None:
    card = model_card({"threshold": 0.5, "window": 256, "overlap": 64, "smooth": 0})
    assert "No definition was recorded." in card and "was not recorded" in card


def test_handing_folders_out_needs_no_torch() -> None:
    code = "import sys, labeling.export; assert not {'torch', 'transformers', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
