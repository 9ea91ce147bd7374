"""`mri-posterior models ...` as a user types it: arguments in, text and exit code out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import save_file

from models import DEFAULT_MODEL, registry
from models.install import package
from models.registry import list_models, read_config
from service import cli
from tests.models.edm_fixture import original_state
from tests.models.model_files import ABOUT, rewrite, write_run

SHIPPED = registry.SHIPPED_FOLDER


class Answer(NamedTuple):
    code: int
    output: str
    error: str


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tmp_path / "own"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "own"


class Runner:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Answer:
        self.monkeypatch.setattr(sys, "argv", ["mri-posterior", "models", *map(str, arguments)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        captured = self.capsys.readouterr()
        return Answer(code if isinstance(code, int) else 1, captured.out, captured.err)


@pytest.fixture
def run(own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return package(write_run(folder / "run", random=False), folder, "tiny", **ABOUT)


@pytest.fixture
def offered(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "offered" / "tiny")


def test_alone_it_shows_what_there_is(run: Runner) -> None:
    shown = run()
    for name in ("list", "show", "verify", "add", "remove", "package", "convert"):
        assert name in shown.output + shown.error


def test_the_list_tells_shipped_from_own(run: Runner, offered: Path) -> None:
    assert run("add", offered).code == 0
    found = {row["name"]: row for row in json.loads(run("list", "--json").output)}
    assert set(found) == set(list_models())
    assert found[DEFAULT_MODEL]["shipped"]
    assert found[DEFAULT_MODEL]["default"]
    assert not found["tiny"]["shipped"]
    assert not found["tiny"]["default"]
    assert found["tiny"]["sigma_range"] == [0.01, 5.0]
    assert found["tiny"]["weights_sha256"] == read_config("tiny").weights_sha256
    assert found["tiny"]["data_attributions"] == ["nobody", "nowhere"]
    table = run("list").output
    default = next(line for line in table.splitlines() if DEFAULT_MODEL in line)
    tiny = next(line for line in table.splitlines() if "tiny" in line)
    assert "(default)" in default
    assert "shipped" in default
    assert "0.01-5" in tiny
    assert "nobody, nowhere" in tiny
    assert "CC0-1.0" in tiny
    assert "own" in tiny


def test_a_damaged_model_does_not_hide_the_others(run: Runner, offered: Path, own: Path) -> None:
    run("add", offered)
    (own / "tiny" / "config.json").write_text("{")
    found = {row["name"]: row for row in json.loads(run("list", "--json").output)}
    assert found["tiny"]["error"] == "bad-config"
    assert found[DEFAULT_MODEL]["error"] is None
    assert "bad-config" in run("list").output


def test_show_tells_configuration_digest_and_card(run: Runner, offered: Path) -> None:
    run("add", offered)
    shown = run("show", "tiny").output
    assert read_config("tiny").weights_sha256 in shown
    assert "monai-unet" in shown
    assert "6 steps on noise" in shown
    assert "## Training" not in shown  # the card is rendered, not printed


def test_texts_of_a_model_are_no_markup_and_no_escapes(
    run: Runner, offered: Path, own: Path
) -> None:
    rewrite(offered, licence="[/red]free[link=http://x]", training="[bold]")
    (offered / "README.md").write_text("[/blink] card \x1b]0;title\x07")
    assert run("add", offered).code == 0
    shown = run("show", "tiny")
    assert shown.code == 0
    assert "[/red]free[link=http://x]" in shown.output
    assert "\x1b" not in shown.output
    assert "[/red]free" in run("list").output
    rewrite(own / "tiny", **{"[/blue]": 1})
    refused = run("show", "tiny")
    assert refused.code == 2
    assert "[/blue]" in refused.error


def test_verify_says_what_it_did(run: Runner, offered: Path) -> None:
    run("add", offered)
    verified = run("verify", "tiny")
    assert verified.code == 0
    assert "noise of 0.5 into 0.1" in verified.output


def test_verify_fails_with_the_reason(run: Runner, offered: Path, own: Path) -> None:
    run("add", offered)
    weights = own / "tiny" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    failed = run("verify", "tiny")
    assert failed.code == 2
    assert "weights-digest" in failed.error


def test_add_and_remove(run: Runner, offered: Path, own: Path) -> None:
    assert run("add", offered, "--name", "second").code == 0
    assert (own / "second" / "weights.safetensors").exists()
    again = run("add", offered, "--name", "second")
    assert (again.code, "exists" in again.error) == (2, True)
    assert run("remove", "second").code == 0
    assert not (own / "second").exists()


def test_shipped_models_stay(run: Runner) -> None:
    refused = run("remove", DEFAULT_MODEL)
    assert refused.code == 2
    assert "cannot be removed" in refused.error
    assert (SHIPPED / DEFAULT_MODEL / "config.json").exists()


def test_a_run_is_packaged_and_used(run: Runner, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", random=False)
    about = ("--training", "six steps", "--licence", "CC0-1.0", "--attribution", "nobody")
    made = run(
        "package", folder, "mine", *about, "--lowest-sigma", 0.05, "--weights-dtype", "float16"
    )
    assert made.code == 0, made.error
    config = read_config("mine")
    assert (config.sigma_range, config.weights_dtype) == ((0.05, 5.0), "float16")
    assert run("verify", "mine").code == 0
    assert run("package", folder, "../mine", *about).code == 2


def test_a_checkpoint_is_converted(run: Runner, tmp_path: Path) -> None:
    state = original_state("DDPM++")
    state = {key: 0 * value if "aux_conv" in key else value for key, value in state.items()}
    save_file(state, tmp_path / "net.safetensors")
    words = ("--training", "elsewhere", "--licence", "MIT", "--attribution", "them")
    levels = ("--sigma-low", 0.02, "--sigma-high", 10)
    common = (tmp_path / "net.safetensors", "foreign", "--from", "edm", *words)
    assert "--scale" in run("convert", *common, *levels, "--sigma-data", 0.5).error
    assert "--sigma-data" in run("convert", *common, *levels, "--scale", 2).error
    assert "--sigma-low" in run("convert", *common, "--scale", 2, "--sigma-data", 0.5).error
    made = run("convert", *common, *levels, "--scale", 2, "--sigma-data", 0.5)
    assert made.code == 0, made.error
    config = read_config("foreign")
    assert (config.scale, config.sigma_range, config.licence) == (2.0, (0.02, 10.0), "MIT")
    assert run("verify", "foreign").code == 0


def test_a_real_process_ends_with_code_2(own: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "models", "verify", "../../etc"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert "bad-name" in done.stderr
    assert "Traceback" not in done.stderr
