"""What beginners do wrong, and what they are told: at once, by name, with what to do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from recon.errors import ScanError
from recon.io.files import read_result, write_scan
from recon.phantom import simulate
from service.cli import app
from service.commands.outputs import require_folder, require_writable
from service.commands.terminal import ProgressLines, duration
from service.finished_slices import finished, folder_of
from service.runs import load_scan
from tests.service.live import ROOT, environment, tiny_model, tiny_scan

QUICK = ("--model", "tiny", "--preset", "fast", "--samples", "2", "--no-self-check")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def tiny(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(models))


def run(*arguments: object) -> str:
    """Standard output and error of a command in this process, or the refusal it raised."""
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(answer.exception, ScanError):
        return answer.exception.message
    assert answer.exit_code == 0, answer.output + repr(answer.exception)
    return " ".join(answer.output.split())


def test_undersampling_keeps_enough_lines_for_coil_maps_by_default(
    tmp_path: Path, tiny: None
) -> None:
    """The defaults of simulate and undersample at 128 columns: 8 % would be ten lines."""
    full, scan, result = (tmp_path / name for name in ("full.h5", "scan.h5", "result.h5"))
    assert f"undersample {full}" in run(
        "simulate", "-o", full, "--rows", 128, "--columns", 128, "--coils", 4
    )
    assert f"reconstruct {scan}" in run("undersample", full, "-o", scan)
    said = run("reconstruct", scan, "-o", result, *QUICK)
    for words in (
        "done: 1 slice in",
        "verdict: trusted",
        "chains: not checked",
        f"written: {result}",
        "next: ",
    ):
        assert words in said, said


def test_undersampling_says_at_once_what_reconstruct_will_refuse(tmp_path: Path) -> None:
    full, _ = simulate(1, 4, 64, 64)
    write_scan(tmp_path / "full.h5", full)
    said = run(
        "undersample", tmp_path / "full.h5", "-o", tmp_path / "scan.h5", "--center-fraction", 0.08
    )
    assert "reconstruct will refuse it" in said
    assert "--center-fraction 0.188" in said
    assert "--maps" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("reconstruct", "{scan}", "-o", "{there}"), "--overwrite"),
        (("reconstruct", "{scan}", "-o", "{scan}"), "is the input"),
        (("reconstruct", "{scan}", "-o", "{nowhere}"), "no folder"),
        (("reconstruct", "{scan}", "-o", "{out}", "--png", "{there}"), "--overwrite"),
        (("reconstruct", "{scan}", "-o", "{out}", "--png", "{out}"), "two outputs"),
        (("reconstruct", "{scan}", "-o", "{folder}"), "is a folder"),
        (("reconstruct", "{missing}", "-o", "{out}"), "missing.h5: there is no such file"),
        (("reconstruct", "{scan}", "-o", "{out}", "--mask", "{missing}"), "missing.h5: there"),
        (("reconstruct", "{text}", "-o", "{out}"), "text.h5: "),
        (("undersample", "{text}", "-o", "{out}"), "text.h5: "),
        (("undersample", "{scan}", "-o", "{scan}"), "is the input"),
        (("evaluate", "{scan}", "--reference", "{scan}"), "scan.h5: "),
        (("evaluate", "{missing}", "--reference", "{scan}"), "missing.h5: "),
        (("export", "{scan}", "-o", "{there}", "--to", "mrd"), "--overwrite"),
        (("simulate", "-o", "{there}"), "--overwrite"),
    ],
)
def test_what_cannot_work_is_refused_before_the_work(
    tmp_path: Path, tiny: None, arguments: tuple[str, ...], said: str
) -> None:
    names = {name: tmp_path / f"{name}.h5" for name in ("scan", "there", "text", "missing", "out")}
    tiny_scan(names["scan"])
    names["there"].write_text("precious")
    names["text"].write_text("this is not HDF5")
    names |= {"nowhere": tmp_path / "nowhere" / "out.h5", "folder": tmp_path}
    answer = run(*(argument.format(**names) for argument in arguments))
    assert said in answer
    assert names["there"].read_text() == "precious"
    assert not names["out"].exists()


def test_overwriting_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "full.h5").write_text("old")
    run("simulate", "-o", tmp_path / "full.h5", "--rows", 32, "--columns", 32, "--overwrite")
    assert load_scan(tmp_path / "full.h5").kspace.shape == (1, 8, 32, 32)


def test_an_unwritable_folder_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScanError, match="cannot be made"):
        require_folder(tmp_path / "file" / "folder")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    with pytest.raises(ScanError, match="input"):
        require_writable((link,), (tmp_path / "file",), overwrite=True)
    require_writable((tmp_path / "new", None), (None,), overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = ProgressLines(Console(width=200))
    task = bar.add_task("slice 3", total=2)
    for step in range(21):
        now[0] = 2.0 * step
        bar.update(task, completed=step / 20)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("slice 3, 12 %")
    assert [duration(s) for s in (44.6, 134, 3900)] == ["45 s", "2 min 14 s", "1 h 5 min"]


def test_an_interrupted_volume_goes_on_where_it_was_and_ends_the_same(
    tmp_path: Path, models: Path
) -> None:
    """Equal to the bit, so all in processes alike: more threads add in another order."""
    scan, out = tiny_scan(tmp_path / "scan.h5", slices=3), tmp_path / "result.h5"
    surroundings = environment(models)

    def start(result: Path, *options: object) -> subprocess.Popen[str]:
        words = ["reconstruct", scan, "-o", result, *QUICK, *map(str, options)]
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", *words],
            env=surroundings, cwd=ROOT, stderr=subprocess.STDOUT, stdout=subprocess.PIPE,
            text=True,
            # A shell's background jobs are born deaf to Ctrl-C, and so would be what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    def said(process: subprocess.Popen[str], code: int) -> str:
        answer, _ = process.communicate(timeout=600)
        assert process.returncode == code, answer
        return " ".join(answer.split())

    whole = tmp_path / "whole.h5"
    assert "done: 3 slices" in said(start(whole), 0)
    assert not folder_of(whole).exists()

    process = start(out)
    until = time.monotonic() + 900
    while not finished(out) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    answer = said(process, 130)
    assert f"stopped; {len(finished(out))} of 3 slices" in answer
    assert "--resume" in answer
    assert not out.exists()

    assert "--resume" in said(start(out), 2)
    assert "made otherwise (seed" in said(start(out, "--resume", "--seed", 1), 2)
    assert "done: 3 slices" in said(start(out, "--resume"), 0)
    assert not folder_of(out).exists()
    for one, other in zip(read_result(whole)[0], read_result(out)[0], strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
        np.testing.assert_array_equal(one.quantiles, other.quantiles)
        assert one.warnings == other.warnings


def test_ctrl_c_is_answered_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recon.phantom.simulate", interrupted)
    answer = CliRunner().invoke(app, ["simulate", "-o", str(tmp_path / "full.h5")])
    assert answer.exit_code == 130
    assert "stopped" in answer.output


def test_help_of_reconstruct_fits_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    from recon.presets import PRESETS

    monkeypatch.setenv("COLUMNS", "80")
    answer = CliRunner().invoke(app, ["reconstruct", "--help"])
    lines = answer.output.splitlines()
    assert len(lines) <= 55
    assert max(map(len, lines)) <= 80
    places = [answer.output.index(f"\n{heading}\n") for heading in ("For example", "Options")]
    assert places == sorted(places)
    assert answer.output.index("\nOptions\n") < answer.output.index("\nFor experts\n")
    for preset in PRESETS.values():
        assert str(preset.evaluations) in answer.output


def test_every_option_has_a_help_text() -> None:
    silent = []

    def look(command: object, name: str) -> None:
        for inner, one in getattr(command, "commands", {}).items():
            look(one, f"{name} {inner}")
        silent.extend(
            f"{name} {parameter.name}"
            for parameter in getattr(command, "params", [])
            if not getattr(parameter, "help", None)
        )

    look(typer.main.get_command(app), "mri-posterior")
    assert silent == []
