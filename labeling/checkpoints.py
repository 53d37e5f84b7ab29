"""Training checkpoints: a killed run goes on from the last one and ends with the same weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labeling.artifacts import write_json


class Checkpoints:
    """Weights and optimizer as safetensors, counters as JSON, written last: it names the tensors' files."""

    def __init__(self, folder: Path, digest: str):
        self.folder, self.digest = folder, digest
        folder.mkdir(parents=True, exist_ok=True)

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, best: dict[str, Any] | None = None
    ) -> None:
        tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": value for key, value in state.items()}
        save_file({name: t.contiguous() for name, t in tensors.items()}, self.folder / f"step-{step}.safetensors")
        write_json(self.folder / "state.json", {"digest": self.digest, "step": step, "best": best})
        kept = {f"step-{step}", f"best-{best['step']}" if best else ""}
        for old in self.folder.glob("*.safetensors"):
            if old.stem not in kept:
                old.unlink()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any] | None, int]:
        """(best so far, steps done). Another run's leftovers in the folder are cleared away."""
        try:
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None, 0
        if state["digest"] != self.digest:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            return None, 0
        tensors = load_file(self.folder / f"step-{state['step']}.safetensors")
        _set_parameters(model, {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        return state["best"], state["step"]

    def save_best(self, model: nn.Module, step: int) -> None:
        save_file(
            {name: p.detach().contiguous() for name, p in model.named_parameters()},
            self.folder / f"best-{step}.safetensors",
        )

    def load_best(self, model: nn.Module, step: int) -> None:
        _set_parameters(model, load_file(self.folder / f"best-{step}.safetensors"))


def _set_parameters(model: nn.Module, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
