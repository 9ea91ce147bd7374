"""A hook of MkDocs: the reference is written from the code each time the site is built.

Nothing here repeats what the code says. A page is as true as the code it was made from.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import typer
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from typer.cli import get_docs_for_click
from typer.core import TyperGroup

from docs.notebook_page import markdown_of
from docs.schema_text import cell, http_page, schema_section
from models.conformal_factors import ConformalFactors
from models.model_folder import FILES, MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES, ModelConfig
from recon.io import result_layout
from recon.planes import ATTRIBUTE as IMAGE_PLANES
from recon.posterior import QUANTILE_LEVELS, SelfCheck, SlicePosterior
from service.cli import app as command_line
from service.http.app import api_document
from service.problems import PROBLEMS
from service.products import PRODUCTS
from service.settings import CONFIG_VARIABLE
from service.settings import table as settings_table
from service.training.archive_plan import ArchivePlan
from service.training.runs import TrainingPlan

ROOT = Path(__file__).parent.parent
_RESULTS = "benchmarks/results"
_WEIGHTS = "models/weights"
_MADE = "<!-- Made from the code by docs/reference_pages.py; change the code instead. -->\n\n"


def on_config(config: MkDocsConfig) -> None:
    """Formulas become MathML, which browsers draw themselves: no script, nothing fetched."""
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": "math", "class": "formula", "format": _formula}
    ]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made from the code, the texts of the root folder and the figures."""
    pages = {
        "reference/command-line.md": command_line_page(),
        "reference/http-api.md": _MADE + http_page(api_document()),
        "reference/openapi.json": json.dumps(api_document(), indent=1),
        "reference/settings.md": settings_page(),
        "reference/result-file.md": result_page(),
        "reference/model-format.md": model_page(),
        "reference/training-file.md": training_page(),
        "reference/error-codes.md": codes_page(),
    }
    for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY"):
        text = (ROOT / f"{name}.md").read_text()
        pages[f"project/{name.lower()}.md"] = text.replace("](docs/", "](../")
    notebook = nbformat.reads((ROOT / "docs/notebooks/posterior.ipynb").read_text(), as_version=4)
    pages["tutorials/posterior-in-python.md"], drawn = markdown_of(notebook, "posterior")
    for name, png in drawn.items():
        files.append(File.generated(config, f"tutorials/{name}", content=png))
    for folder in sorted((ROOT / _WEIGHTS).iterdir()):
        text = (folder / "README.md").read_text()
        pages[f"model-cards/{folder.name}.md"] = text.replace(
            "](prior.png)", f"]({folder.name}.png)"
        )
        if (folder / "prior.png").is_file():
            uri = f"model-cards/{folder.name}.png"
            files.append(File.generated(config, uri, abs_src_path=str(folder / "prior.png")))
    for picture in sorted((ROOT / _RESULTS).glob("*.png")):
        files.append(
            File.generated(config, f"{_RESULTS}/{picture.name}", abs_src_path=str(picture))
        )
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links to figures and model cards are written as a reader of the repository finds them."""
    del page
    markdown = products_section(problems_section(markdown))
    markdown = re.sub(rf"\]\(\.\./{_WEIGHTS}/([\w-]+)/README\.md", r"](model-cards/\1.md", markdown)
    return markdown.replace(f"](../{_RESULTS}/", f"]({_RESULTS}/")


def problems_section(markdown: str) -> str:
    """The advice on every type of problem, in the place of the comment `problems`."""
    sections = (
        f"### {kind}\n\n*{each.title} ({each.status}).* {each.advice}\n"
        for kind, each in PROBLEMS.items()
    )
    return markdown.replace("<!-- problems -->", "\n".join(sections))


def products_section(markdown: str) -> str:
    """The table of products, in the place of the comment `products`."""
    rows = ["| file | what is in it |", "|---|---|"]
    for product in PRODUCTS.values():
        missing = "" if product.absent is None else f"; may be missing: {product.absent}"
        rows.append(f"| `{product.name}` | {product.contents}{missing} |")
    return markdown.replace("<!-- products -->", "\n".join(rows))


def _formula(source: str, *_: object, **__: object) -> str:
    return f'<div class="formula">{convert(source.strip(), display="block")}</div>'


def command_line_page() -> str:
    """All commands with their options, by Typer's own writer."""
    command = typer.main.get_command(command_line)
    assert isinstance(command, TyperGroup)
    context = typer.Context(command, info_name="mri-posterior")
    text = get_docs_for_click(obj=command, ctx=context, name="mri-posterior")
    text = text.replace("# `mri-posterior`", "# Command line", 1)
    text = re.sub(r"^(#+) `mri-posterior (.*)`$", r"\1 \2", text, flags=re.MULTILINE)
    for group in (command, *command.commands.values()):
        for name, one in getattr(group, "commands", {}).items():
            # Typer shortens what a terminal has no room for.
            short = f"* `{name}`: {one.get_short_help_str()}"
            text = text.replace(short, f"* `{name}`: {one.get_short_help_str(limit=300)}")
    exits = (
        "Exit codes: 0 done; 2 input refused, a sentence says why and what to do; 1 failure. "
        "Codes in brackets are listed under [error codes](error-codes.md).\n\n**Usage**:"
    )
    return _MADE + text.replace("**Usage**:", exits, 1)


def settings_page() -> str:
    """Every setting of the service."""
    lines = [
        "# Settings",
        "",
        "Flags of `mri-posterior serve` win over the environment, the environment wins over the "
        f"TOML file that `{CONFIG_VARIABLE}` names. The file has the same settings in lower case, "
        "without the prefix. Unknown names are refused.",
        "",
        "| environment variable | default | meaning |",
        "|---|---|---|",
    ]
    for setting in settings_table():
        shown = setting.default.replace(str(Path.home()), "~")
        default = f"`{shown}`" if shown else "none"
        lines.append(f"| `{setting.variable}` | {default} | {cell(setting.meaning)} |")
    return _MADE + "\n".join(lines) + "\n"


def result_page() -> str:
    """Datasets of a result file, with the words of the class they come from."""
    said = _attribute_docstrings(ROOT / "recon/posterior.py", SlicePosterior.__name__)
    said |= {"quantiles": said["quantiles"].replace("`QUANTILE_LEVELS`", _quantile_levels())}
    lines = [
        "# Result file",
        "",
        f"HDF5, schema `{result_layout.SCHEMA}` (root attribute `schema`). Slices are the first "
        "axis of every dataset but `samples`, where they are the second. Images are in the units "
        "of the whitened k-space of the input; phases are those of the input.",
        "",
        "| dataset | type | per slice |",
        "|---|---|---|",
    ]
    for name, (field, kind) in result_layout.STACKED.items():
        text = said.get(field) or _field_words(field)
        lines.append(f"| `{name}` | {kind.__name__} | {cell(text)} |")
    columns = _attribute_docstrings(ROOT / "recon/posterior.py", SelfCheck.__name__)
    check = "; ".join(
        f"`{name}`" + (f": {columns[name].rstrip('.')}" if name in columns else "")
        for name in result_layout.SELF_CHECK_COLUMNS
    )
    lines += [
        f"| `samples` | complex64 | {cell(said['samples'])} |",
        f"| `quality/self_check` | float64 | columns {cell(check)}; NaN without a self-check |",
        f"| `quality/evidence` | float64 | columns {', '.join(result_layout.EVIDENCE_COLUMNS)}: "
        "what verdicts go by (`recon.verdict.Evidence`); NaN where it cannot be known |",
        f"| `{result_layout.CLASSICAL}` | complex64 | {cell(said['classical'])} Zero for others; "
        "absent where all are trusted |",
        f"| `{result_layout.DIFFERENCE}` | float32 | magnitude of the mean less that of "
        f"`{result_layout.CLASSICAL}`, where there is one |",
        "| `reconstruction` | float32 | magnitude of what is delivered, of the mean unless a slice "
        "is not trusted, cut to the size the header asks for: what fastMRI's evaluation reads |",
        "| `reconstruction_std` | float32 | `magnitude_std`, cut likewise |",
        "| `mask` | bool | (rows, columns), once for all slices: what was sampled |",
        *(
            f"| `{name}` | float32 | `{field}` before the conformal factor, of calibrated results |"
            for name, field in result_layout.UNCALIBRATED.items()
        ),
        "",
        "## Root attributes",
        "",
        "| attribute | meaning |",
        "|---|---|",
    ]
    lines += [
        f"| `{name}` | {meaning} |"
        for name, meaning in (ATTRIBUTES | CARRIED_OVER | OF_CALIBRATED | OF_CHOICE).items()
    ]
    lines += [
        "",
        "```python",
        "from pathlib import Path",
        "",
        "from recon.io.files import read_result",
        "",
        'posteriors, about = read_result(Path("result.h5"))',
        'print(about["model_id"], posteriors[0].mean.shape, posteriors[0].warnings)',
        "```",
        "",
    ]
    return _MADE + "\n".join(lines)


ATTRIBUTES = {
    "schema": "name and version of this layout",
    "not_for_diagnostic_use": "always 1",
    "warnings": 'JSON: a list of `{"slice", "warning"}`, in plain words',
    "verdicts": 'JSON: a list of `{"slice", "trust", "cause", "sentence", "p_value"}`',
    "created": "time of writing, UTC",
    "input_sha256": "SHA-256 of the scan's file",
    "model_id": "name of the prior",
    "model_sha256": "SHA-256 of its weights",
    "software_version": "version of this package",
    "torch_version": "version of PyTorch",
    "python_version": "version of Python",
    "device": "where the network ran",
    "compute_dtype": "type the network computed in",
    "seed": "seed of everything random",
    "samples": "chains, one independent sample each",
    "preset": "fast, standard or thorough",
    "sampler": "method and annealing path",
    "coarse": "the first reconstruction",
    "steps": "network evaluations per chain",
    "acceleration": "matrix size over acquired samples",
    "units": "what magnitudes are: root sum of squares of the coils as received",
    "slice_coherence": "sides of a pixel over which samples hold together along a stack; 0: not",
    "volume": "1 where the slices were sampled as one volume",
    "compress_above": "coils above which they were compressed; 0: never",
}
"""Checked by a test against a file that was really written."""
CARRIED_OVER = {
    "acquisition": "fastMRI's name of the sequence, where the scan has one",
    IMAGE_PLANES: "JSON: where each slice lies in the patient, where the scan says it",
}
OF_CHOICE = {
    "fallback": "1 where the classical image is delivered of slices that are not trusted",
    "accept_refused": "1 where the posterior is delivered of slices that were refused",
}
OF_CALIBRATED = {
    "conformal_factor": "what `quantiles` and `magnitude_std` were multiplied by, where asked for",
    "conformal_level": "share of true values that the outer intervals are to hold",
    "conformal_confidence": "share of further scans (or slices) for which that is promised",
    "conformal_unit": "scan or slice: what was counted as exchangeable",
    "conformal_units": "how many of them the factor was computed on",
    "conformal_scans": "from how many scans they came",
    "conformal_data": "what they were",
    "conformal_date": "when",
}


def _field_words(field: str) -> str:
    return {
        "index": "number of the slice in the scan",
        "mean": "posterior mean, complex, (rows, columns)",
        "coarse": "the first reconstruction, complex, (rows, columns)",
        "magnitude_std": "posterior standard deviation of the magnitude, (rows, columns)",
        "effective_samples": "effective number of independent draws, (rows, columns)",
        "converged": "whether R-hat, Monte Carlo error and residual allow trust",
    }[field]


def _quantile_levels() -> str:
    return ", ".join(f"{100 * level:g} %" for level in QUANTILE_LEVELS)


def _attribute_docstrings(path: Path, class_name: str) -> dict[str, str]:
    """The string under each field of a class."""
    tree = ast.parse(path.read_text())
    (found,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name]
    said = {}
    for field, text in zip(found.body, found.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            said[field.target.id] = str(text.value.value)
    return said


def _sections(name: str, model: type[BaseModel]) -> list[str]:
    """A file's fields, and after them those of the parts that they name."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs")
    lines = list(schema_section(name, schema))
    for part, definition in sorted(definitions.items()):
        lines += schema_section(part, definition)
    return lines


def training_page() -> str:
    """The keys of a training file."""
    lines = [
        "# Training file",
        "",
        "`mri-posterior train PLAN.toml` reads it; paths are relative to its folder. Plans of the "
        "shipped priors are in `models/recipes/`, the way is told in "
        "[train a prior](../tutorials/train-a-prior.md).",
        "",
    ]
    lines += _sections("PLAN.toml", TrainingPlan)
    lines += [
        "# Of undersampled scans",
        "",
        "A file with the key `from_undersampled` learns from scans in place of images "
        "([how](../tutorials/learn-from-undersampled-scans.md)). What `[training]` leaves out is "
        "then as here, not as above.",
        "",
    ]
    lines += _sections("PLAN.toml for scans", ArchivePlan)
    return _MADE + "\n".join(lines) + "\n"


def model_page() -> str:
    """The folder of a model and the fields of its configuration."""
    lines = [
        "# Model format",
        "",
        f"A model is a folder of {', '.join(f'`{name}`' for name in FILES)}. `config.json` says "
        "how to build the network and what its user should know; nothing in the folder is ever "
        f"executed or unpickled. `config.json` may have {MAX_CONFIG_BYTES // 1024} KiB, the "
        f"weights {MAX_WEIGHTS_BYTES // 1024**2} MiB. `mri-posterior models verify NAME` checks "
        "all of it, and lets the network denoise once.",
        "",
        "The network takes two channels, real and imaginary part, of an image whose 99th "
        "percentile of the magnitude is 1 (times `scale`), with noise of `sigma` per real "
        "component, and returns the expected clean image.",
        "",
    ]
    lines += _sections("config.json", ModelConfig)
    lines += [
        "## calibration.json",
        "",
        "May lie beside them: conformal factors that results are given on request "
        "([calibration](../calibration.md)). It is refused when it was written for other weights.",
        "",
    ]
    lines += _sections("calibration", ConformalFactors)
    example = (ROOT / "models/weights/brain-small/config.json").read_text()
    lines += ["## Example", "", "The prior that ships:", "", "```json", example.rstrip(), "```", ""]
    return _MADE + "\n".join(lines).replace("#/$defs/", "#")


def codes_page() -> str:
    """Every error code with the sentence it comes with, as found in the code."""
    lines = [
        "# Error codes",
        "",
        "Each refusal has a short, stable code and a sentence that says what to do. The command "
        "line prints the code in brackets; the service puts it into the member `reason` of a "
        "[problem](../troubleshooting.md). `…` stands for what is inserted.",
        "",
        "Exit code 2: `ScanError`, `CalibrationError`, `ModelError`, `SettingsError`. "
        "Exit code 1: the others.",
        "",
        "| code | error | what it says |",
        "|---|---|---|",
    ]
    for code, error, message in sorted(error_codes()):
        lines.append(f"| `{code}` | {error} | {cell(message)} |")
    return _MADE + "\n".join(lines) + "\n"


def error_codes() -> set[tuple[str, str, str]]:
    """(code, class, sentence) of every error raised with a literal code."""
    found = set()
    for folder in ("recon", "models", "service"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and len(node.args) >= 2:
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    code, message = node.args[0], _template(node.args[1])
                    if (
                        name.endswith("Error")
                        and name != "ProblemError"
                        and isinstance(code, ast.Constant)
                        and isinstance(code.value, str)
                        and message
                    ):
                        found.add((code.value, name, message))
    return found


def _template(node: ast.expr) -> str:
    """A string, with `…` for what an f-string inserts."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
        return "".join(str(part) for part in parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return "" if not isinstance(node, ast.Name) else "…"
