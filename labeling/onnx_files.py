"""ONNX files of a classifier: written from its torch model, run by onnxruntime without torch.

`model.onnx` gives the torch model's probabilities to 1e-3; `model.int8.onnx` has its matrix products in
8 bits (dynamic quantisation), which CPUs with VNNI do several times faster. Writing needs the extra
[onnx]; running needs onnxruntime alone.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ONNX, INT8 = "model.onnx", "model.int8.onnx"
INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("logits",)


def can_write() -> bool:
    return all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))


def can_run() -> bool:
    return find_spec("onnxruntime") is not None


def write_onnx(model: Any, folder: Path) -> list[str]:
    """Write both files into `folder`; their names, or none where the extra [onnx] is not installed."""
    if not can_write():
        return []
    _trace(model, folder / ONNX)
    _quantise(folder / ONNX, folder / INT8)
    return [ONNX, INT8]


def _trace(model: Any, path: Path) -> None:
    """The model's graph with free batch and length."""
    import torch
    from torch import Tensor, nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    device = next(model.parameters()).device
    ids = torch.ones((2, 8), dtype=torch.long, device=device)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0  # without padding in the example, the mask would be traced away
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            Logits().eval(), (ids, mask), str(path), input_names=list(INPUTS), output_names=list(OUTPUTS),
            dynamic_shapes=(free, free), dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source, target, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"]
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell on every channel what does not concern whoever trains a classifier."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


class OnnxModel:
    """An ONNX file opened with onnxruntime."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ValueError(
                f"{path.name} needs onnxruntime; install tokensieve[onnx] or use the torch engine"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if not path.is_file():
            raise ValueError(f"{path}: this classifier was exported without ONNX; use the torch engine")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def logits(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """(batch, pos) each -> (batch, pos, 2)."""
        [out] = self.session.run(list(OUTPUTS), dict(zip(INPUTS, (ids, mask), strict=True)))
        return out
