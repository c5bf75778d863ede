"""Every example of the documentation runs, and every page that a page names is there."""

import contextlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unspool.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]


def test_the_worked_cell_is_a_short_file_and_its_examples_run(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "add-a-cell.md").read_text(encoding="utf-8")
    ((name, code),) = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", page, re.S)
    assert len(code.splitlines()) < 30
    (tmp_path / name).write_text(code, encoding="utf-8")
    examples = re.findall(r"<!-- run -->\n```python\n(.*?)```", page, re.S)
    assert len(examples) == 3
    monkeypatch.syspath_prepend(str(tmp_path))
    for example in examples:
        exec(compile(example, "docs/add-a-cell.md", "exec"), {"__name__": "example"})


def test_the_cell_of_the_page_trains_from_the_command_line(tmp_path):
    page = (ROOT / "docs" / "add-a-cell.md").read_text(encoding="utf-8")
    ((name, code),) = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", page, re.S)
    (tmp_path / name).write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "unspool.cli", "train", "language-modeling", "--out", "m", "--max-steps", "2"]
    command += ["--cell", "minimal_gated_unit:MinimalGatedUnit", "--hidden-size", "8", "--json"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120, env={"PYTHONPATH": str(tmp_path)})


@pytest.mark.parametrize("page", ["README.md", "docs/diagnosis.md"])
def test_the_screen_of_python_runs(page):
    page = (ROOT / page).read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", page, re.S)[0]
    assert len(example.splitlines()) < 30
    exec(compile(example, "page", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_command_and_flag_of_the_pages_exists():
    commands = [f"{verb} {task}" for verb in ("train", "check") for task in ("tagging", "translation", "speech")]
    commands += ["train language-modeling", "bench engine", "evaluate", "predict", "generate", "diagnose", "lab"]
    known = {"--fix"}.union(*(_flags_of(*command.split()) for command in commands))
    # read from the sources, since what they import need not be installed
    scripts = (path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
    known |= {flag for script in scripts for flag in re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script)}
    for page in PAGES:
        used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
        assert used <= known, (page.name, used - known)


def _flags_of(*command):
    """What the command line's own help lists."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        main([*command, "--help"])
    return set(re.findall(r"--[a-z][a-z-]+", shown.getvalue()))


def test_the_tables_of_the_drop_in_page_come_from_its_results():
    path = ROOT / "benchmarks/drop_in/table.py"
    spec = importlib.util.spec_from_file_location("drop_in_table", path)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    assert table.PAGE.read_text() == table.page()
