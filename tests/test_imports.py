"""Who imports whom, what is loaded when, and what the package's names are."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fcnet

ROOT = Path(fcnet.__file__).parent

ORDER = [
    "errors",
    "host",
    "counters",
    "activations",
    "costs",
    "initializers",
    "layers",
    "model",
    "optimizers",
    "data.arrays",
    "fitted",
    "data.split",
    "data.files",
    "data.delimited",
    "data.parquet",
    "data.table",
    "data.idx",
    "data.npy",
    "data.npz",
    "data.book",
    "data.digits",
    "data.mnist",
    "data.sources",
    "engines.contract",
    "engines.gpus",
    "engines.stored",
    "engines.xla",
    "engines.cuda",
    "engines.native",
    "engines.choose",
    "history",
    "progress",
    "steps",
    "checkpoint",
    "identity",
    "keeper",
    "memory",
    "interrupts",
    "judges",
    "loop",
    "training",
    "network",
    "members",
    "estimators.settings",
    "estimators.losses",
    "estimators.targets",
    "estimators.training",
    "estimators.lbfgs",
    "estimators.sklearn_exchange",
    "estimators.perceptron",
    "estimators.multilayer",
    "tabular.frames",
    "tabular.values",
    "tabular.kinds",
    "tabular.columns",
    "tabular.leaks",
    "tabular.together",
    "tabular.recipe",
    "tabular.room",
    "tabular.rounds",
    "tabular.calibration",
    "tabular.saved",
    "tabular.estimator",
    "tabular.estimators",
    "network3",
    "cli.words",
    "cli.runs",
    "cli.figures",
    "cli.tables",
    "cli.app",
    "__main__",
]
"""The order of the parts: a file imports only from those above it. A folder's own files are free among themselves."""


def modules():
    """The name of every module of the package, below ``fcnet``, and its file."""
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), file


def place(module):
    """Where a module stands in the order; its folder's place, where the folder is one part."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in ORDER:
            return ORDER.index(".".join(parts[:length]))
    return None


def imported_modules(file, known):
    """Every module of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("fcnet.") in known else module for name in names]
        else:
            continue
        for name in names:
            if name.startswith("fcnet."):
                yield name.removeprefix("fcnet."), node.lineno


def test_every_file_has_its_place():
    packages = {"", "data", "engines", "estimators", "tabular", "cli"}
    assert [name for name, _ in modules() if name not in packages and place(name) is None] == []
    names = {name for name, _ in modules()}
    assert [part for part in ORDER if part not in names] == []


def test_a_file_imports_only_from_those_above_it():
    known = dict(modules())
    offences = []
    for name, file in known.items():
        for imported, line in imported_modules(file, known):
            if imported not in known:
                offences.append(f"{name}:{line} imports {imported}, which is not there")
            elif name == "":
                offences.append(f"fcnet/__init__.py:{line} imports {imported}; names are loaded when they are used")
            elif place(imported) is not None and place(name) is not None and place(imported) > place(name):
                offences.append(f"{name}:{line} imports {imported}, which is below it")
            elif place(imported) == place(name) and name.split(".")[:2] != imported.split(".")[:2]:
                offences.append(f"{name}:{line} imports {imported}, which stands beside it")
    assert offences == []


def test_only_the_engines_import_what_they_compile_with():
    """jax and numba are named in the engines; elsewhere a function may ask an array for its namespace.

    scikit-learn is named in the estimators and in tabular, which are its classes.
    """
    for name, file in modules():
        if name.startswith("engines."):
            continue
        forbidden = {"jax", "numba", "torch"} | (
            {"sklearn"} if not name.startswith(("estimators", "tabular")) else set()
        )
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules_named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                roots = {module.split(".")[0] for module in modules_named}
                assert not roots & forbidden, f"{name} imports {roots}"


# --- What is loaded when ------------------------------------------------------------------------------------------------

HEAVY = {"jax", "jaxlib", "numba", "sklearn", "scipy", "polars", "matplotlib", "pandas"}


def python(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def loaded_by(program):
    return set(python(f"import sys\n{program}\nprint(*{{name.split('.')[0] for name in sys.modules}})").split())


def test_importing_fcnet_is_quick():
    program = "import time; began = time.process_time(); import fcnet; print(time.process_time() - began)"
    assert min(float(python(program)) for _ in range(5)) < 0.2


def test_importing_fcnet_loads_no_engine():
    assert not loaded_by("import fcnet") & HEAVY
    assert not loaded_by("import fcnet; dir(fcnet); fcnet.__version__; fcnet.InputError") & HEAVY


def test_making_a_network_loads_no_engine():
    program = "import fcnet; print(fcnet.Network([fcnet.SoftmaxLayer(4, 3)], 10).summary())"
    assert not loaded_by(program) & {"jax", "numba", "sklearn", "matplotlib", "polars"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_no_engine(arguments):
    program = (
        f"sys.argv = ['fcnet', *{arguments}]\nfrom fcnet.cli.app import main\ntry: main()\nexcept SystemExit: print()"
    )
    loaded = loaded_by(program)
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"numpy"})


def test_training_needs_no_package_for_tables_and_none_for_folders(tmp_path):
    """Polars, for tables, and platformdirs, where the caches' places are chosen: machines lent for a time may lack them."""
    program = f"""
import os, sys
sys.modules.update(dict.fromkeys(("polars", "platformdirs", "narwhals", "pyarrow"), None))
os.environ["JAX_COMPILATION_CACHE_DIR"] = {str(tmp_path)!r}
import numpy as np, fcnet
for engine in ("native", "xla"):
    network = fcnet.Network([fcnet.SoftmaxLayer(4, 3)], 10)
    history = fcnet.train(network, (np.eye(30, 4), np.arange(30) % 3), epochs=2, engine=engine, device="cpu", verbose=False)
    print(len(history.epochs))
"""
    assert python(program).split() == ["2", "2"]


def test_digits_are_read_without_scikit_learn_s_code():
    assert "sklearn" not in loaded_by("import fcnet; fcnet.load_data('digits')")


# --- Public names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fcnet.__all__)
def test_public_names(name):
    value = getattr(fcnet, name)
    assert name in dir(fcnet)
    if inspect.isclass(value) or inspect.isfunction(value):
        documented = value.__doc__
        assert not (documented or "").startswith(f"{name}("), "a docstring that dataclass made"
    else:
        documented = type(value).__doc__  # a record, such as fcnet.relu
        assert repr(value) == f"fcnet.{name}"
    assert documented
    assert documented.strip()


def test_the_names_that_the_documentation_uses():
    expected = "FullyConnectedLayer SoftmaxLayer Network train load_data sigmoid relu tanh linear softmax quadratic cross_entropy"
    optimizers = "log_likelihood SGD Momentum Nesterov Adam AdamW Cosine Step Exponential WarmUp dropout_layer History"
    assert set(expected.split() + optimizers.split()) <= set(fcnet.__all__)


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'fcnet' has no attribute 'Convolution'"):
        fcnet.Convolution
    with pytest.raises(ImportError):
        from fcnet import convolution  # noqa: F401


def test_public_members_have_docstrings():
    missing = []
    for name in fcnet.__all__:
        value = getattr(fcnet, name)
        if inspect.isclass(value):
            for member, function in vars(value).items():
                documented = not callable(function) and not isinstance(function, property)
                if not member.startswith("_") and not documented and not getattr(function, "__doc__", None):
                    missing.append(f"{name}.{member}")
    assert missing == []


def test_type_checkers_see_the_public_names():
    stub = ast.parse((ROOT / "__init__.pyi").read_text())
    names = {alias.name for node in ast.walk(stub) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(fcnet.__all__)
