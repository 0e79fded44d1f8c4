"""The command ``fcnet``."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fcnet import __version__

# Only what parses the command line is imported here; what trains is imported by the command that needs it, so that
# help and completion answer at once.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train fully connected networks on CPUs and GPUs.",
)

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command; an error of fcnet's is a message and an exit code, not a traceback."""
    from fcnet.errors import FcnetError, InputError

    try:
        app()
    except FcnetError as error:
        print(f"fcnet: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"fcnet {__version__}")
        raise typer.Exit


@app.callback()
def _fcnet(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Options from a file become the defaults of this command line."""
    if path is not None and not context.resilient_parsing:
        from fcnet.cli import words

        options = {
            option.removeprefix("--"): str(parameter.name)
            for parameter in context.command.params
            for option in parameter.opts
            if option.startswith("--") and option not in ("--config", "--help")
        }
        context.default_map = words.config(path, options)
    return path


def _read_resume(context: typer.Context, run: Path | None) -> Path | None:
    """The options that a run was started with become the defaults of this command line."""
    if run is not None and not context.resilient_parsing:
        from fcnet.cli import runs

        context.default_map = runs.command_of(run)
    return run


Run = Annotated[Path, typer.Argument(help="A run folder, or a model file.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Engine = Annotated[str, typer.Option(help="auto, native, cuda or xla.", rich_help_panel="Machine")]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu, gpu:1, or gpus for all.", rich_help_panel="Machine")]
PartName = Annotated[str, typer.Option("--part", help="Which part of the data: train, validation or test.")]


@app.command()
def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            help="digits, mnist, a folder of IDX files, an .npz file; or a table in .csv or .parquet.",
            show_default=False,
        ),
    ],
    hidden: Annotated[str, typer.Option(help="Sizes of the hidden layers, such as 100,100.")] = "256,256",
    activation: Annotated[str, typer.Option(help="Of the hidden layers: relu, sigmoid, tanh, gelu, ...")] = "relu",
    dropout: Annotated[
        str | None,
        typer.Option(
            help="Probability to drop a hidden output; or one for each layer's input: 0.2,0.5,0.5. By default 0.2 for "
            "classes, 0 for values.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data, at most.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Rows in a step.")] = 32,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, nesterov, adam or adamw.")] = "adam",
    learning_rate: Annotated[
        float | None,
        typer.Option(help="By default 0.003 for adam and adamw, 0.1 for sgd, 0.01 for the others.", show_default=False),
    ] = None,
    schedule: Annotated[
        str, typer.Option(help="constant, cosine, step, exponential, warmup or warmup-cosine.")
    ] = "cosine",
    l2: Annotated[
        float, typer.Option(help="Strength of the L2 penalty: 0.5 * l2 * sum(w^2) / number of mini-batches.")
    ] = 0.0,
    early_stopping: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without improvement.", show_default=False)
    ] = None,
    time_budget: Annotated[str | None, typer.Option(help="Stop after 90s, 5m or 1h.", show_default=False)] = None,
    on_nan: Annotated[
        str, typer.Option(help="Where the cost becomes NaN: stop, or halve the learning rate and go back an epoch.")
    ] = "stop",
    seed: Annotated[int, typer.Option(help="Decides initial weights, order and dropout.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/DATA-001 and so on by default.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run folder that exists.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the training in this run folder, however it ended; its data and options are the defaults.",
            callback=_read_resume,
            is_eager=True,
            show_default=False,
        ),
    ] = None,
    checkpoint_every: Annotated[str, typer.Option(help="How often: 1epoch, 3epochs, 30s or 5m.")] = "1epoch",
    json_line: Json = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with these options, for those not given here.",
            callback=_read_config,
            is_eager=True,
            show_default=False,
        ),
    ] = None,
    engine: Engine = "auto",
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(help="At most so many; one a core by default.", rich_help_panel="Machine", show_default=False),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel="Machine")] = "float32",
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="The same bytes every time, also on a GPU.", rich_help_panel="Machine"),
    ] = False,
    precision: Annotated[
        str, typer.Option(help="Of products on a GPU: float32, tf32 or bf16.", rich_help_panel="Machine")
    ] = "tf32",
    target: Annotated[
        str | None, typer.Option(help="The column to predict.", rich_help_panel="Tables", show_default=False)
    ] = None,
    task: Annotated[str, typer.Option(help="auto, classification or regression.", rich_help_panel="Tables")] = "auto",
    split_column: Annotated[
        str | None,
        typer.Option(help="Says train, validation or test.", rich_help_panel="Tables", show_default=False),
    ] = None,
    drop: Annotated[str, typer.Option(help="Columns not to use: boat,body.", rich_help_panel="Tables")] = "",
    preset: Annotated[str, typer.Option(help="fast, default or best.", rich_help_panel="Tables")] = "default",
    interval: Annotated[
        float | None,
        typer.Option(
            help="Intervals that cover this part of values, as 0.9.", rich_help_panel="Tables", show_default=False
        ),
    ] = None,
) -> None:
    """Train a network and leave a run folder: model, settings and results, history, curves."""
    from fcnet.data.files import TABLE_ENDINGS, is_table

    of_tables = {"--target": target, "--split-column": split_column, "--drop": drop, "--interval": interval}
    if is_table(data):
        from fcnet.cli import tables, words

        of_networks = {
            "--hidden": hidden != "256,256",
            "--activation": activation != "relu",
            "--dropout": dropout is not None,
            "--epochs": epochs != 30,
            "--batch-size": batch_size != 32,
            "--optimizer": optimizer != "adam",
            "--learning-rate": learning_rate is not None,
            "--schedule": schedule != "cosine",
            "--l2": l2 != 0.0,
            "--early-stopping": early_stopping is not None,
            "--dtype": dtype != "float32",
            "--precision": precision != "tf32",
            "--deterministic": deterministic,
        }
        _refuse(of_networks, f"is not for a table such as {data}: --preset decides it.")
        interrupted = tables.train(
            data,
            target=target,
            task=task,
            split_column=split_column,
            drop=drop,
            preset=preset,
            interval=interval,
            budget=None if time_budget is None else words.seconds(time_budget),
            seed=seed,
            out=out,
            overwrite=overwrite,
            json_line=json_line,
            engine=engine,
            device=device,
            threads=threads,
        )
        if interrupted:
            raise typer.Exit(128 + interrupted)
        return
    from fcnet import training
    from fcnet.cli import runs, words
    from fcnet.data.sources import load_data
    from fcnet.errors import DivergenceError, InputError
    from fcnet.keeper import Every, Keeper

    _refuse(of_tables, f"is for tables ({', '.join(TABLE_ENDINGS)}), and {data} is none.")
    began = time.perf_counter()
    if resume is not None and (out is not None or overwrite or config is not None):
        raise InputError(
            "--resume goes on in the run's own folder, with its own options: leave out --out, --overwrite and --config."
        )
    every = Every.parse(checkpoint_every)
    if learning_rate is None:
        learning_rate = words.LEARNING_RATES.get(optimizer, 0.0)
    settings = {
        "data": data,
        "hidden": words.sizes(hidden),
        "activation": activation,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "l2": l2,
        "early_stopping": early_stopping,
        "time_budget": time_budget,
        "on_nan": on_nan,
        "seed": seed,
        "engine": engine,
        "device": device,
        "threads": threads,
        "dtype": dtype,
        "precision": precision,
        "deterministic": deterministic,
    }
    data_set = load_data(data)  # split alike whatever the seed, so that evaluate and predict see the same test rows
    if dropout is None:
        dropout = "0" if data_set.n_classes is None else "0.2"
    settings["dropout"] = words.dropout(dropout, len(words.sizes(hidden)) + 1)
    update = words.optimizer(optimizer, learning_rate, schedule)
    budget = None if time_budget is None else words.seconds(time_budget)
    network = words.network(settings, data_set)
    folder = resume or runs.make_folder(out, data_set.name, overwrite)
    keeper = Keeper(folder, every, command=runs.command(context.params), replaces=overwrite)
    error: BaseException | None = None
    with keeper:  # who is refused here leaves the folder to the training that holds it
        try:
            try:
                with runs.warnings_as_lines():
                    training.train(
                        network,
                        data_set.train,
                        data_set.validation,
                        data_set.test,
                        epochs=epochs,
                        optimizer=update,
                        l2=l2,
                        seed=seed,
                        engine=engine,
                        device=device,
                        n_threads=threads,
                        dtype=dtype,  # type: ignore[arg-type]  # checked by train
                        precision=precision,  # type: ignore[arg-type]  # checked by train
                        deterministic=deterministic,
                        time_budget=budget,
                        early_stopping=early_stopping,
                        on_nan=on_nan,  # type: ignore[arg-type]  # checked by train
                        checkpoint=keeper,
                        resume=resume,
                    )
            except (KeyboardInterrupt, SystemExit, DivergenceError) as caught:
                error = caught
            if network.history is not None:
                history = network.history
                results = {
                    "test_accuracy": history.test_accuracy,
                    "best_validation_accuracy": history.best_validation_accuracy,
                    "best_epoch": history.best_epoch,
                    "epochs": len(history.epochs),
                    "seconds": round(time.perf_counter() - began, 3),
                    "engine": history.engine,
                    "device": history.device,
                    "run": str(folder),
                }
                ending = history.ending
                record = {"settings": settings, "versions": runs.versions(), "ending": ending, "results": results}
                with runs.undisturbed():
                    runs.write(folder, network, history, record)
                if json_line:
                    print(json.dumps(results))
                else:
                    _print_results(network, history, results)
            early = isinstance(error, KeyboardInterrupt | SystemExit) or (network.history and ending == "time budget")
            if early and (keeper.written or resume is not None):
                print(f"fcnet: to go on: fcnet train --resume {shlex.quote(str(folder))}", file=sys.stderr)
        finally:
            useless = isinstance(error, DivergenceError) or not keeper.written
            if network.history is None and resume is None and useless:  # leave no folder that nothing can be done with
                runs.discard(folder, bool(keeper.written))
    if isinstance(error, SystemExit):
        raise typer.Exit(error.code)  # type: ignore[arg-type]
    if isinstance(error, KeyboardInterrupt):
        raise typer.Exit(EXIT_INTERRUPTED)
    if error is not None:
        raise error


@app.command()
def evaluate(
    run: Run,
    data: Annotated[str, typer.Argument(help="digits, mnist, a folder, an .npz file or a table.", show_default=False)],
    part: PartName = "test",
    json_line: Json = False,
    engine: Engine = "auto",
    device: Device = "auto",
) -> None:
    """Accuracy and cost of a trained network on data."""
    if (run / "table.json").is_file():
        from fcnet.cli import tables

        tables.evaluate(run, data, part, json_line, engine, device)
        return
    from fcnet.network import Network

    network = Network.load(run)
    rows = _part(data, part)
    answer: dict[str, Any] = {
        "rows": rows.n_rows,
        "cost": network.cost(rows.X, rows.y, engine=engine, device=device),
        "accuracy": None,
    }
    if network.task == "classification":
        answer["accuracy"] = network.accuracy(rows.X, rows.y, engine=engine, device=device)
    if json_line:
        print(json.dumps(answer))
    else:
        accuracy = "" if answer["accuracy"] is None else f"accuracy {answer['accuracy']:.2%}, "
        print(f"{accuracy}cost {answer['cost']:.4f} on {rows.n_rows:,} rows")


@app.command()
def predict(
    run: Run,
    data: Annotated[str, typer.Argument(help="digits, mnist, a folder, an .npz file or a table.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where the predictions go; - for standard output.")] = Path(
        "predictions.csv"
    ),
    part: PartName = "test",
    engine: Engine = "auto",
    device: Device = "auto",
) -> None:
    """Write a trained network's predictions as CSV: the class and each class's probability, or the values."""
    if (run / "table.json").is_file():
        from fcnet.cli import tables

        tables.predict(run, data, out, engine, device)
        return
    import polars

    from fcnet.checkpoint import write_atomically
    from fcnet.data.sources import load_rows
    from fcnet.network import Network

    network = Network.load(run)
    X = load_rows(data, part)
    predictions = network.predict(X, engine=engine, device=device)
    columns: dict[str, Any] = {}
    if network.task == "classification":
        columns["prediction"] = predictions
        if network.gives_probabilities:
            probabilities = network.predict_proba(X, engine=engine, device=device)
            columns |= {f"p_{j}": probabilities[:, j] for j in range(probabilities.shape[1])}
    else:
        values = predictions.reshape(len(predictions), -1)
        names = ["prediction"] if values.shape[1] == 1 else [f"prediction_{j}" for j in range(values.shape[1])]
        columns = {name: values[:, j] for j, name in enumerate(names)}
    table = polars.DataFrame(columns).write_csv()
    if str(out) == "-":
        sys.stdout.write(table)
    else:
        write_atomically(out, table.encode())
        print(f"{len(predictions):,} predictions in {out}")


@app.command()
def info(run: Run, json_line: Json = False) -> None:
    """What a run folder or a model file holds."""
    from fcnet.cli import runs
    from fcnet.data.files import shown
    from fcnet.network import Network

    network = Network.load(run)
    record = runs.read(run) if run.is_dir() else {}
    if json_line:
        print(json.dumps({"layers": len(network.layers), "mini_batch_size": network.mini_batch_size, **record}))
        return
    print(network.summary())
    if (run / "table.json").is_file():
        from fcnet.tabular.estimators import load_estimator

        print(f"\ncolumns\n{load_estimator(run)[0].columns_.summary()}")
    for title in ("settings", "versions", "results"):
        if title in record:
            print(f"\n{title}")
            for name, value in record[title].items():
                print(f"  {shown(name):<26}{shown(_plain(value))}")


@app.command()
def warmup() -> None:
    """Compile the native engine for this machine now, so that no training waits for it."""
    from fcnet.engines.native.ahead import warm_up

    began = time.perf_counter()
    warm_up()
    print(f"the native engine is compiled, in {time.perf_counter() - began:.1f} s")


@app.command()
def devices() -> None:
    """Which engines and devices can be used here, and why others cannot."""
    from fcnet.engines.choose import AUTO, ENGINES, engine_named, usable_gpus, why_no_gpu
    from fcnet.engines.contract import Placement
    from fcnet.engines.cuda.device import gpus as shown_by_driver
    from fcnet.memory import in_words

    found = usable_gpus()
    for name in ENGINES:
        engine = engine_named(name)
        here = found or name in AUTO["cpu"]
        missing = getattr(engine, "missing", lambda: None)() if here else "it runs on GPUs only; see below."
        missing = missing and f"not usable: {missing}"
        if found and name == "xla" and (objection := engine.why_no_gpu()):  # type: ignore[attr-defined]  # of this engine
            missing = f"{engine.description}; here on CPUs only: {objection}"
        print(f"engine  {name:<8}{missing or engine.description}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"device  {'cpu':<8}usable, {cores} cores")
    for index, name in enumerate(found):
        own = engine_named("cuda" if shown_by_driver() else "xla")
        free = own.free_memory(Placement("gpu", index))  # type: ignore[attr-defined]  # of these engines
        print(f"device  {f'gpu:{index}':<8}usable, {name}{f', {in_words(free)} of memory free' if free else ''}")
    if not found:
        print(f"device  {'gpu':<8}not usable: {why_no_gpu()}")


# --- Below the commands -----------------------------------------------------------------------------------------------


def _refuse(options: dict[str, Any], why: str) -> None:
    """Refuse the first option that was given."""
    from fcnet.errors import InputError

    for name, given in options.items():
        if given:
            raise InputError(f"{name} {why}")


def _part(data: str, name: str) -> Any:
    """One part of a data set, by name."""
    from fcnet.data.sources import load_data

    return load_data(data).part(name)


def _print_results(network: Any, history: Any, results: dict[str, Any]) -> None:
    """The closing table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    best = history.best
    rows = {
        "training": f"{history.ending} after {results['epochs']} epochs, {results['seconds']:.1f} s in all",
        "engine": f"{results['engine']} on {results['device']}",
        "network": f"{sum(array.size for array in network.arrays.values()):,} parameters",
    }
    if best is not None:
        rows["best epoch"] = f"{best.epoch + 1} of {results['epochs']}"
        for name in ("validation_accuracy", "validation_cost", "test_accuracy"):
            value = getattr(best, name)
            if value is not None:
                rows[name.replace("_", " ")] = f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4f}"
    rows["run folder"] = results["run"]
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False, soft_wrap=True).print(table)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)
