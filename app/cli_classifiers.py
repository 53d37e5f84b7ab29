"""Command line: backbones of our own, and the baselines a classifier is held against."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.progress import run

bilm_cli = typer.Typer(no_args_is_help=True, help="biLM backbones: two small language models, one reading each way.")


@bilm_cli.command("pretrain")
def pretrain(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the backbone.")],
    text: Annotated[list[str] | None, typer.Option(help="File of documents; may be given again.")] = None,
    domain_text: Annotated[
        list[str] | None, typer.Option(help="File of the domain's documents; --domain-share of every batch.")
    ] = None,
    preset: Annotated[str, typer.Option(help="cpu, 13M, 61M, 113M or 224M; options below change it.")] = "cpu",
    tokenizer: Annotated[str | None, typer.Option(help="Hub id or folder; default: our own byte-level BPE.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Pieces of our own BPE.")] = None,
    tokens: Annotated[int | None, typer.Option(help="To train on, with repetition; default: 80 a parameter.")] = None,
    domain_share: Annotated[float | None, typer.Option(help="Share of every batch from --domain-text.")] = None,
    layers: Annotated[int | None, typer.Option()] = None,
    width: Annotated[int | None, typer.Option()] = None,
    heads: Annotated[int | None, typer.Option()] = None,
    block: Annotated[int | None, typer.Option(help="Tokens a row: the longest window of its classifiers.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for tokens and checkpoints; default: OUT.work.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Pretrain a biLM from scratch, losses shown as it learns; resumes where it stopped."""
    from labeling.pretraining import PRESETS, PretrainConfig
    from labeling.pretraining import pretrain as step

    if preset not in PRESETS:
        raise ValueError(f"--preset {preset}: give one of {', '.join(PRESETS)}")
    for file in [*(text or ()), *(domain_text or ())]:
        if not Path(file).is_file():
            raise ValueError(f"{file}: no such file")
    changes = {
        "tokenizer": tokenizer, "vocab": vocab, "tokens": tokens, "domain_share": domain_share, "layers": layers,
        "width": width, "heads": heads, "block": block, "batch_tokens": batch_tokens, "lr": lr, "seed": seed,
    }  # fmt: skip
    config = PretrainConfig(**PRESETS[preset] | {name: value for name, value in changes.items() if value is not None})
    made = run(step(out, config, text or (), domain_text or (), work))
    print(json.dumps(made[-1].info, indent=1))


def baselines(
    project: str,
    inputs: Annotated[list[str], typer.Argument(help="Files of documents to score.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for one predictions file per baseline.")],
    classifier: Annotated[
        str | None, typer.Option(help="NAME or NAME:VERSION whose labels and backbone to use; default: the newest.")
    ] = None,
) -> None:
    """Score files with the baselines a classifier must beat: terms, TF-IDF, and two taught by document labels."""
    from app.baselines import predict_with_baselines
    from app.cli import find_classifier, find_project, opened
    from app.db import reading

    config, sessions = opened()
    with reading(sessions) as session:
        classifier_id = find_classifier(session, find_project(session, project).id, classifier).id
    run(predict_with_baselines(config, sessions, classifier_id, inputs, out))
    for file in sorted(out.glob("*.jsonl")):
        print(file)
