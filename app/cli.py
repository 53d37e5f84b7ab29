"""The command line: the same steps as the pages, with progress bars.

Commands and formats are a contract (DESIGN.md). A mistake of the user's ends as one line on
standard error that names the file, row or option and what to do, and exit code 2.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app import models as m
from app import queries
from app.cli_accounts import cli as account_cli
from app.cli_classifiers import baselines, bilm_cli
from app.db import migrate, reading, session_factory
from app.progress import console, drawn, run
from app.settings import Settings, settings
from labeling.events import Metric

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
reference_cli = typer.Typer(no_args_is_help=True, help="Reference models: a language model and one SAE.")
sae_cli = typer.Typer(no_args_is_help=True, help="Train and evaluate sparse autoencoders.")
cli.add_typer(reference_cli, name="reference")
cli.add_typer(sae_cli, name="sae")
cli.add_typer(bilm_cli, name="bilm")
cli.command()(baselines)
cli.add_typer(account_cli, name="account")

TextField = Annotated[str, typer.Option(help="Field or column that holds the text.")]
IdField = Annotated[str, typer.Option(help="Field or column that holds the id.")]
Precision = Annotated[
    str, typer.Option(help="full (fp32 or bf16), int8, or auto: int8 on CPUs that multiply bytes but not bf16.")
]
AUTHOR = "owner"
INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Entry point: user errors become one line and exit code 2, Ctrl-C one line and 130; `| head` ends it quietly."""
    try:
        try:
            cli()
        finally:
            sys.stdout.flush()  # not left to the interpreter's exit, where a closed pipe could not be caught
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        message = " ".join(said(error).split())
        sys.stderr.write(f"tokensieve: {message}\n")
        raise SystemExit(2) from None
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            sys.stderr.write("tokensieve: stopped; run the same command again, what was finished is not done twice\n")
        raise


def said(error: ValueError | OSError) -> str:
    """The error's own words; a refused field of a configuration is named as its option."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"--{'.'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors())


def opened() -> tuple[Settings, sessionmaker[Session]]:
    config = settings()
    migrate(config)
    return config, session_factory(config)


def find_project(session: Session, name: str) -> m.Project:
    found = session.scalar(select(m.Project).where(m.Project.slug == name.lower()))
    if found is None:
        known = ", ".join(session.scalars(select(m.Project.slug)).all()) or "none yet"
        raise ValueError(f"no project {name!r} (there are: {known}); `tokensieve import {name} FILE…` makes one")
    return found


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(help="Port.")] = None,
    worker: Annotated[bool, typer.Option(help="Start a worker process beside the server.")] = True,
) -> None:
    """The workbench (with a worker beside it unless --no-worker)."""
    from app.serving import serve as start

    config, _ = opened()
    changes = {k: v for k, v in {"host": host, "port": port}.items() if v is not None}
    start(config.model_copy(update=changes), worker=worker)


@cli.command()
def worker() -> None:
    """One more worker process, on this or another machine with the same database and data directory."""
    from app.worker import run_forever

    config, _ = opened()
    run_forever(config)


@cli.command()
def demo(
    headless: Annotated[
        bool, typer.Option("--headless", help="Print the results table and exit instead of serving.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="Port.")] = None,
) -> None:
    """Build the demo project "Medicine" end to end, then serve it."""
    from app.demo import build
    from app.serving import check_port
    from app.serving import serve as start

    config, sessions = opened()
    if port is not None:
        config = config.model_copy(update={"port": port})
    if not headless:
        check_port(config)
    build(config, sessions)
    if not headless:
        start(config)


@cli.command("import")
def import_(
    project: Annotated[str, typer.Argument(help="Project; made if it is new.")],
    files: Annotated[
        list[str], typer.Argument(help=".jsonl[.gz|.zst] .parquet .csv .txt or hf:DATASET[:CONFIG][:SPLIT]")
    ],
    family: Annotated[str, typer.Option(help="Source register of these documents, such as pubmed.")],
    side: Annotated[str, typer.Option(help="forget, retain, mixed or unknown.")],
    text_field: TextField = "text",
    id_field: IdField = "id",
) -> None:
    """Take documents into a project."""
    from app.importing import import_file
    from labeling.documents import SIDES, sources

    if side not in SIDES:
        raise ValueError(f"--side {side}: give one of {', '.join(SIDES)}")
    files = sources(files)
    _, sessions = opened()
    with sessions.begin() as session:
        row = session.scalar(select(m.Project).where(m.Project.slug == project.lower()))
        if row is None:
            row = m.Project(slug=project.lower(), name=project)
            session.add(row)
            session.flush()
        project_id = row.id
    for file in files:
        made = run(import_file(sessions, project_id, file, Path(file).name, family, side, text_field, id_field, AUTHOR))
        info = made[-1].info
        print(
            f"{file}: {info['rows']} rows, {info['added']} added, {info['rejected']} rejected, {info['conflicts']} conflicts"
        )
        for issue in info["issues"]:
            console.print(issue, markup=False, soft_wrap=True)


@reference_cli.command("add")
def reference_add(
    name: str,
    model: Annotated[str, typer.Option(help="Hub id or folder.")],
    sae: Annotated[str, typer.Option(help="release/sae_id of sae-lens, or a folder.")],
    layer: Annotated[int | None, typer.Option(help="Block whose output is read; default: what the SAE says.")] = None,
) -> None:
    """Register a language model and its SAE under a name."""
    from app.references import add

    _, sessions = opened()
    row = add(sessions, name, model, sae, layer)
    print(f"{row.name}: {row.model}, block {row.layer}, {row.info['d_sae']} latents ({row.info['architecture']})")


@reference_cli.command("list")
def reference_list() -> None:
    """The registered references."""
    _, sessions = opened()
    with reading(sessions) as session:
        for row in session.scalars(select(m.Reference).order_by(m.Reference.name)):
            print(f"{row.name}: {row.model}, {row.info.get('hook', f'block {row.layer}')}, {row.sae}")


@reference_cli.command("search")
def reference_search(
    words: Annotated[list[str], typer.Argument(help="Words to find: model, layer, width, release…")],
    limit: Annotated[int, typer.Option(help="Most rows to print.")] = 50,
) -> None:
    """Find an SAE in sae-lens's registry: source, hook, width, L0, neuronpedia id."""
    from labeling.sae_registry import search

    found = search(" ".join(words))
    for entry in found[:limit]:
        print("\t".join([entry.source, entry.model, entry.hook, f"{entry.width or '?'}", f"{entry.l0 or '?'}", entry.neuronpedia or ""]))  # fmt: skip
    if len(found) > limit:
        console.print(f"{len(found) - limit:,} more; add a word, or --limit")


@reference_cli.command("check")
def reference_check(
    name: str,
    project: Annotated[str, typer.Argument(help="Project whose text is read, 2,000 tokens of it.")],
    override: Annotated[str | None, typer.Option(help="Why a failed check may be ignored; kept.")] = None,
) -> None:
    """Check that an SAE fits its model before a harvest: reconstruction around the hook, BOS, L0, numbers, words."""
    from app import preflights
    from app.running import run_job

    config, sessions = opened()
    with reading(sessions) as session:
        project_id, reference_id = find_project(session, project).id, find_reference(session, name).id
    run_job(config, sessions, "preflight", project_id, {"reference_id": reference_id}, AUTHOR)
    with sessions.begin() as session:
        found = preflights.newest_preflight(session, reference_id, project_id)
        assert found is not None
        for item in found.report["checks"]:
            print(f"{item['state']:4}  {item['name']}: {item['text']}")
        if not found.passed and override is None:
            raise ValueError("the reference failed its preflight; correct it, or give --override REASON")
        if not found.passed:
            preflights.override(session, found, override or "", AUTHOR)


def find_reference(session: Session, name: str) -> m.Reference:
    found = session.scalar(select(m.Reference).where(m.Reference.name == name))
    if found is None:
        raise ValueError(f"no reference {name!r}; add it with `tokensieve reference add`")
    return found


@sae_cli.command("train")
def sae_train(
    model: Annotated[str, typer.Option(help="Hub id or folder of the language model.")],
    layer: Annotated[int, typer.Option(help="Block at which the SAE reads, counted from 0.")],
    text: Annotated[list[str], typer.Option(help="File of documents, or FILE=TOKENS to take at most so many.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the SAE.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder for activations and checkpoints; default: OUT.work.")
    ] = None,
    d_sae: Annotated[int, typer.Option(help="Latents.")] = 4096,
    k: Annotated[int, typer.Option(help="Active latents per token (TopK, BatchTopK).")] = 24,
    hook: Annotated[str, typer.Option(help="resid_post (the block's output), resid_pre, mlp_out, attn_out or z.")] = (
        "resid_post"
    ),
    architecture: Annotated[str, typer.Option(help="topk, batchtopk or jumprelu.")] = "topk",
    samples: Annotated[int, typer.Option(help="Training samples (tokens, with repetition).")] = 20_000_000,
    batch: Annotated[int, typer.Option(help="Samples a step.")] = 2048,
    lr: Annotated[float, typer.Option(help="Adam learning rate.")] = 1.2e-3,
    context: Annotated[int, typer.Option(help="Window length in tokens.")] = 256,
    init: Annotated[str, typer.Option(help="Folder of a TopK SAE to go on from; --d-sae may be larger than its.")] = "",
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train an SAE on a decoder's or encoder's hook point, with a card beside it; resumes where it stopped.

    Loads with sae_lens.SAE.load_from_disk.
    """
    from labeling.sae_training import SAEConfig, train_from_text

    config = SAEConfig(
        model=model, layer=layer, d_sae=d_sae, k=k, architecture=architecture, samples=samples, batch=batch, lr=lr,
        context=context, init=init, seed=seed, kind=hook,  # type: ignore[arg-type]
    )  # fmt: skip
    made = run(train_from_text(text, config, work or out.with_name(out.name + ".work"), out))
    print(json.dumps(made[-1].info, indent=1))


@sae_cli.command("evaluate")
def sae_evaluate(
    sae: Annotated[str, typer.Argument(help="Folder, release/sae_id of sae-lens, or owner/repository/folder.")],
    model: Annotated[str, typer.Option(help="Hub id or folder of the language model.")],
    text: Annotated[list[str], typer.Option(help="File of documents, or FILE=TOKENS; not what it was trained on.")],
    layer: Annotated[int | None, typer.Option(help="Only if the SAE does not say where it reads.")] = None,
) -> None:
    """How well an SAE reconstructs: FVU with and without massive states, L0, silent latents, and the model's
    next-token loss (nats) as it is, with the reconstruction and with zeros in its place."""
    from labeling.sae_training import evaluate_on_text

    events = drawn(evaluate_on_text(text, model, sae, layer))
    print(json.dumps({e.name: e.value for e in events if isinstance(e, Metric)}, indent=1))


@cli.command()
def discover(
    project: str,
    reference: Annotated[str | None, typer.Option(help="Reference to use; default: the project's.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Harvest anew, for documents imported since.")] = False,
    override: Annotated[str | None, typer.Option(help="Harvest although the preflight fails, and why; kept.")] = None,
) -> None:
    """Check the reference, harvest activations and rank every latent."""
    config, sessions = opened()
    with sessions.begin() as session:
        row = find_project(session, project)
        if reference is not None:
            row.reference_id = find_reference(session, reference).id
        project_id = row.id
    from app.running import run_job

    args: dict[str, Any] = {"again": again} | ({"override": override} if override else {})
    run_job(config, sessions, "discover", project_id, args, AUTHOR)
    print(f"discovered; accept latents at /projects/{project.lower()}/latents")


@cli.command()
def label(
    project: str,
    k: Annotated[int | None, typer.Option(help="Votes that make a seed.")] = None,
    z: Annotated[float | None, typer.Option(help="Standard deviations above its mean at which a latent votes.")] = None,
    window: Annotated[int | None, typer.Option(help="Count votes over so many tokens to either side.")] = None,
    boundary: Annotated[str | None, typer.Option(help="seeds, grow_above or grow_positive.")] = None,
    predict: Annotated[
        list[str] | None, typer.Option(help="Label these files instead, by the project's newest rule.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Predictions file for --predict.")] = None,
) -> None:
    """Make weak labels from the accepted latents and the project's other functions."""
    from app.rules import predict_with_rule, save_rule

    config, sessions = opened()
    changes = {
        name: value
        for name, value in {"k": k, "z": z, "window": window, "boundary": boundary}.items()
        if value is not None
    }
    with sessions.begin() as session:
        project_id = find_project(session, project).id
        if not predict:
            rule_id = save_rule(session, project_id, changes, AUTHOR).id
    if predict:
        if out is None:
            raise ValueError("--predict needs -o OUT.jsonl")
        run(predict_with_rule(config, sessions, project_id, predict, out))
        return
    from app.running import run_job

    run_job(config, sessions, "label", project_id, {"rule_id": rule_id}, AUTHOR)
    print("labelled")


@cli.command()
def train(
    project: str,
    name: Annotated[str, typer.Option(help="Name of the classifier.")] = "classifier",
    mode: Annotated[str, typer.Option(help="probe (frozen backbone) or finetune.")] = "finetune",
    backbone: Annotated[
        str | None, typer.Option(help="Encoder or biLM: known name, hub id or folder; default: MiniLM.")
    ] = None,
    epochs: Annotated[int, typer.Option()] = 1,
    lr: Annotated[float | None, typer.Option(help="finetune: peak learning rate.")] = None,
    patience: Annotated[int | None, typer.Option(help="finetune: stop after so many validations without gain.")] = None,
    layers: Annotated[str | None, typer.Option(help="probe: blocks to try, such as 2,4; default: each.")] = None,
    concat: Annotated[bool, typer.Option("--concat", help="probe: join the states of --layers instead.")] = False,
    balance: Annotated[bool, typer.Option("--balance", help="Weigh forget and retain tokens alike.")] = False,
    labels: Annotated[
        str, typer.Option(help="Learn from the label of each token, sentence, document or family.")
    ] = "token",
    teacher: Annotated[
        str | None, typer.Option(help="Learn from the scores of this classifier, or of a probe over all 'latents'.")
    ] = None,
    threshold: Annotated[
        str, typer.Option(help="Most f1 on validation, or f2: recall counts four times as much.")
    ] = "f1",
    hard: Annotated[bool, typer.Option("--hard", help="Round probabilities to labels.")] = False,
    flip: Annotated[float, typer.Option(help="Share of training labels to turn over, to see what noise does.")] = 0.0,
    window: Annotated[int | None, typer.Option(help="Tokens per forward pass.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Distil the newest weak labels into a classifier."""
    from app.backbones import LATENTS
    from app.results import results_table
    from app.running import run_job

    config, sessions = opened()
    with reading(sessions) as session:
        project_id = find_project(session, project).id
        newest = queries.newest_label_set(session, project_id)
    if newest is None:
        raise ValueError(f"project {project!r} has no weak labels yet; run `tokensieve label {project}` first")
    given: dict[str, Any] = {
        "backbone": backbone, "lr": lr, "patience": patience, "layers": numbers(layers, "--layers"), "window": window,
        "concat": concat or None, "balance": balance or None, "labels": None if labels == "token" else labels,
        "teacher": str(classifier_folder(teacher).resolve()) if teacher and teacher != LATENTS else teacher,
        "threshold": None if threshold == "f1" else threshold, "soft": False if hard else None, "flip": flip or None, "seed": seed,
    }  # fmt: skip
    args: dict[str, Any] = {"label_set_id": newest.id, "name": name, "mode": mode, "epochs": epochs}
    args |= {key: value for key, value in given.items() if value is not None}
    run_job(config, sessions, "train", project_id, args, AUTHOR)
    with reading(sessions) as session:  # the step has evaluated it already
        print(results_table(find_classifier(session, project_id, name).info))


def numbers(text: str | None, option: str) -> list[int] | None:
    """2,4 -> [2, 4]"""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text}: give numbers separated by commas, such as 2,4") from None


@cli.command()
def evaluate(
    project: str,
    classifier: Annotated[str | None, typer.Option(help="NAME or NAME:VERSION; default: the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Score a classifier against held-out weak labels and gold."""
    from app.results import results_table

    config, sessions = opened()
    with reading(sessions) as session:
        project_id = find_project(session, project).id
        row = find_classifier(session, project_id, classifier)
    from app.running import run_job

    run_job(config, sessions, "evaluate", project_id, {"classifier_id": row.id}, AUTHOR)
    with reading(sessions) as session:
        info = session.get_one(m.Classifier, row.id).info
    print(json.dumps(info, indent=1) if as_json else results_table(info))


def find_classifier(session: Session, project_id: int, name: str | None) -> m.Classifier:
    query = select(m.Classifier).where(m.Classifier.project_id == project_id).order_by(m.Classifier.id.desc())
    if name is not None:
        base, _, version = name.partition(":")
        query = query.where(m.Classifier.name == base)
        if version:
            if not version.isdecimal():
                raise ValueError(f"{name}: a version is a number, such as {base}:1")
            query = query.where(m.Classifier.version == int(version))
    found = session.scalar(query.limit(1))
    if found is None:
        raise ValueError(f"no such classifier {name or ''}; train one with `tokensieve train`")
    return found


def named_classifier(session: Session, name: str) -> m.Classifier:
    """A project's PROJECT/NAME[:VERSION] or NAME:VERSION."""
    project, _, base = name.rpartition("/")
    for row in session.scalars(select(m.Project)).all():
        if project and row.slug != project.lower():
            continue
        try:
            return find_classifier(session, row.id, base)
        except ValueError:
            continue
    raise ValueError(f"{name}: neither an exported classifier folder nor a project's name:version")


def classifier_folder(name: str) -> Path:
    """An exported folder, or a project's classifier."""
    if Path(name).is_dir():
        return Path(name)
    config, sessions = opened()
    with reading(sessions) as session:
        found = named_classifier(session, name)
        return config.data_dir / session.get_one(m.Artifact, found.artifact_id).path


@cli.command()
def threshold(
    project: str,
    by: Annotated[str, typer.Option(help="f1, f2, fpr, budget or value.")],
    value: Annotated[
        float | None, typer.Option(help="fpr: share of retain words; budget: share of all words; value: the threshold.")
    ] = None,
    classifier: Annotated[str | None, typer.Option(help="NAME or NAME:VERSION; default: the newest.")] = None,
) -> None:
    """Give a classifier another threshold, as its next version."""
    from app.results import results_table
    from app.running import run_job
    from labeling.curves import check_choice

    check_choice(by, value)
    config, sessions = opened()
    with reading(sessions) as session:
        project_id = find_project(session, project).id
        row = find_classifier(session, project_id, classifier)
    args = {"classifier_id": row.id, "by": by} | ({"value": value} if value is not None else {})
    run_job(config, sessions, "threshold", project_id, args, AUTHOR)
    with reading(sessions) as session:
        made = find_classifier(session, project_id, row.name)
        print(f"{made.name}:{made.version}: threshold {made.threshold:.4g}\n{results_table(made.info)}")


@cli.command("export")
def export_(
    classifier: Annotated[str, typer.Argument(help="PROJECT/NAME[:VERSION] or NAME:VERSION.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
) -> None:
    """Write a classifier's folder, its newest figures and model card included."""
    from app.exporting import parts_of
    from labeling.export import copy_with

    if out.exists():
        raise ValueError(f"{out} exists already; give another folder")
    config, sessions = opened()
    with reading(sessions) as session:
        folder, files = parts_of(session, config, named_classifier(session, classifier))
    copy_with(folder, files, out)
    print(out)


@cli.command()
def predict(
    classifier: Annotated[str, typer.Argument(help="Exported folder or NAME:VERSION.")],
    inputs: Annotated[list[str], typer.Argument(help="Files of documents; - for JSONL on standard input.")],
    out: Annotated[
        str, typer.Option("--out", "-o", help="Predictions, one JSON object a line; - for standard output.")
    ],
    precision: Precision = "auto",
    text_field: TextField = "text",
    id_field: IdField = "id",
) -> None:
    """Score documents: every token once, long ones in windows."""
    from labeling.predict import predict_files

    run(predict_files(classifier_folder(classifier), inputs, out, text_field, id_field, precision))


@cli.command("filter")
def filter_(
    classifier: Annotated[str, typer.Argument(help="Exported folder or NAME:VERSION.")],
    inputs: Annotated[list[str], typer.Argument(help="Files or folders of documents; - for standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the filtered corpus.")],
    treatment: Annotated[str, typer.Option(help="mask, remove or document.")],
    threshold: Annotated[float | None, typer.Option(help="P(forget) from which a token is forget.")] = None,
    budget: Annotated[float | None, typer.Option(help="Share of all tokens to remove instead, such as 0.05.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer of input_ids: hub id or folder.")] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    precision: Precision = "auto",
    text_field: TextField = "text",
    id_field: IdField = "id",
) -> None:
    """Filter a corpus by loss mask, removal, or whole documents."""
    from labeling.filtering import FilterConfig, filter_corpus

    if threshold is not None and budget is not None:
        raise ValueError("give --threshold or --budget, not both")
    config = FilterConfig(
        treatment=treatment, threshold=threshold, budget=budget, tokenizer=tokenizer, engine=engine, precision=precision
    )
    made = run(filter_corpus(classifier_folder(classifier), inputs, out, config, text_field, id_field))
    print(json.dumps(made[-1].info, indent=1))


@cli.command()
def score(
    predictions: Annotated[str, typer.Argument(help="Predictions file; NAME=FILE to name its row.")],
    gold: Annotated[str, typer.Argument(help="Annotated documents.")],
    more: Annotated[list[str] | None, typer.Option("--with", help="Further predictions for the same table.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """The evaluation table: F1, precision, recall, F2, AUROC, FPR per retain family, 95% intervals."""
    from labeling.documents import must, read
    from labeling.evaluate import Scores, format_table, read_predictions
    from labeling.evaluate import score as run_score

    truth = list(must(read(gold)))
    table: dict[str, Scores] = {}
    for item in [predictions, *(more or [])]:
        name, _, file = item.rpartition("=")
        table[name or Path(file).stem] = run_score(read_predictions(file), truth)
    print(
        json.dumps({n: s.to_json() | s.details() for n, s in table.items()}, indent=1)
        if as_json
        else format_table(table)
    )
