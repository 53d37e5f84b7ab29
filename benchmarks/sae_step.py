"""Training step of a TopK SAE: our sparse gradients against sae-lens's dense ones, same trainer, same batches.

python -m benchmarks.sae_step
"""

import time

import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from labeling.sparse_topk import SparseTopKTrainingSAE

BATCH, D_IN, STEPS = 2048, 576, 10


def rate(sae: TopKTrainingSAE) -> float:
    """Samples a second, after two steps to warm up."""
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=BATCH * 100, train_batch_size_samples=BATCH, lr=1e-3, lr_end=1e-3, autocast=False
        ),
        sae=sae,
        data_provider=iter(()),
    )
    for group in trainer.optimizer.param_groups:
        group.update(fused=True, foreach=False)
    batch = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(0))
    for step in range(STEPS + 2):
        if step == 2:
            begun = time.perf_counter()
        trainer.step(batch)
        trainer.n_training_steps += 1
    return BATCH * STEPS / (time.perf_counter() - begun)


def main() -> None:
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, d_in {D_IN}, k 24")
    for d_sae in (4096, 6144):
        config = TopKTrainingSAEConfig(d_in=D_IN, d_sae=d_sae, k=24, dtype="float32", device="cpu")
        ours, theirs = rate(SparseTopKTrainingSAE(config)), rate(TopKTrainingSAE(config))
        print(f"d_sae {d_sae}: ours {ours:,.0f} samples/s, sae-lens {theirs:,.0f}, ratio {ours / theirs:.1f}")


if __name__ == "__main__":
    main()
