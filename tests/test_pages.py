"""README.md and the pages of docs/: what they show runs, what they name is there, and what they link to exists."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.composing import check_complete, check_known, compose
from experiments.run.__main__ import is_sweep
from experiments.sweeps.composer import Composer, compose_applicable
from experiments.sweeps.expansion import expand
from experiments.tune.plan import make_plan
from experiments.tune.space import read_space

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"[+~]*([a-z_]+)[\w./@]*=\S+")
GROUPS = {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()}
KEYS = GROUPS | {str(key) for key in OmegaConf.load(ROOT / "configs" / "config.yaml")} - {"defaults", "hydra"}
ReadOptions = Callable[[str, list[str]], argparse.Namespace]
PLACES = r"(?:contrastive|experiments|benchmarks|configs|tests|docs)"


def blocks(language: str) -> list[Any]:
    """The fenced blocks of all pages in a language, named by their page."""
    found = []
    for page, text in TEXTS.items():
        texts = [block for of, block in FENCE.findall(text) if of == language]
        found += [pytest.param(block, id=f"{page}-{number}") for number, block in enumerate(texts)]
    return found


def commands() -> list[Any]:
    """What the pages show to be typed: lines of shell, commands in a sentence, and settings in a sentence."""
    found: dict[str, str] = {}
    for page, text in TEXTS.items():
        shell = [block.replace("\\\n", " ") for language, block in FENCE.findall(text) if language == "sh"]
        inline = INLINE.findall(FENCE.sub("", text))
        lines = [line for block in shell for line in block.splitlines() if line.strip()]
        lines += [code for code in inline if code.startswith("python -m ")]
        lines += [code for code in inline if are_settings(code)]
        for line in lines:
            found.setdefault(line, page)
    return [pytest.param(line, id=f"{page}: {line[:60]}") for line, page in found.items()]


def are_settings(code: str) -> bool:
    try:
        words = [SETTING.fullmatch(word) for word in shlex.split(code)]
    except ValueError:  # an apostrophe
        return False
    return bool(words) and all(word is not None and word[1] in KEYS for word in words)


class ParsedError(Exception):
    """Ends a program once its options are read."""


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    for folder in ("DIR", "DIR_OR_FILE"):
        (tmp_path / folder).mkdir()
    for file in ("pairs.csv", "postings.csv"):
        (tmp_path / file).touch()
    return tmp_path


@pytest.fixture
def options_of(monkeypatch: pytest.MonkeyPatch) -> ReadOptions:
    """Returns how to read the options of a program as the program does, without running it."""

    def ending(parse: Callable[..., argparse.Namespace]) -> Callable[..., NoReturn]:
        def parse_and_end(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
            raise ParsedError(parse(parser))

        return parse_and_end

    def read(module: str, words: list[str]) -> argparse.Namespace:
        program = importlib.import_module(module)
        main = getattr(program, "main")  # noqa: B009
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", [module, *words])
            for name in ("parse_args", "parse_intermixed_args"):
                patch.setattr(argparse.ArgumentParser, name, ending(getattr(argparse.ArgumentParser, name)))
            try:
                main()
            except ParsedError as parsed:
                return parsed.args[0]  # type: ignore[no-any-return]
        raise AssertionError(f"{module} reads no options")

    return read


def test_there_is_something_to_check() -> None:
    assert len(blocks("python")) > 4
    assert len(commands()) > 60
    assert {language for text in TEXTS.values() for language, _ in FENCE.findall(text)} <= {"python", "sh"}
    assert all(text.count("\n```") == 2 * len(FENCE.findall(text)) for text in TEXTS.values())


@pytest.mark.parametrize(
    "block",
    [block for block in blocks("python") if "migration" not in str(block.id)],  # see tests/losses/test_migration.py
)
@pytest.mark.usefixtures("in_a_folder")
def test_python_examples_run(block: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(block, "example", "exec"), names)
    assert "backward()" not in block or names["queries"].grad is not None


@pytest.mark.parametrize("line", commands())
@pytest.mark.usefixtures("in_a_folder")
def test_commands_are_read(line: str, options_of: ReadOptions) -> None:
    for command in line.split(" && "):
        words = shlex.split(command.split(" > ")[0], comments=True)
        if are_settings(command):
            check_settings(words)
        elif words[:2] == ["wandb", "sweep"]:
            assert (ROOT / words[2]).is_file()
        elif words[:3] == ["python", "-m", "pip"]:
            check_installed(words)
        elif words[:3] == ["python", "-m", "experiments.run"]:
            check_run(words[3:])
        elif words[:2] == ["python", "-m"] and words[2].startswith("experiments."):
            check_program(words[2], words[3:], options_of)
        elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
            assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file()  # its options: see the next test
        else:
            assert words[:3] == ["python", "-m", "pytest"], "expected a command that this test can check"


OPTIONS_OF_BENCHMARKS = """
import argparse, contextlib, importlib, json, sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

class Nothing:  # stands for whatever takes long to import and says nothing of options
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names and name not in programs:
            return ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return MagicMock(__spec__=spec)
    def exec_module(self, module):
        module.__path__ = []

class Parsed(Exception):
    pass

def parse_and_end(parser, parse=argparse.ArgumentParser.parse_args):
    raise Parsed(parse(parser))

commands = json.loads(sys.argv[1])
programs = {"benchmarks", "experiments", "experiments.cli", *(module for module, *_ in commands)}
sys.meta_path.insert(0, Nothing())
argparse.ArgumentParser.parse_args = parse_and_end
for module, *words in commands:
    sys.argv = [module, *words]
    with contextlib.suppress(Parsed):
        importlib.import_module(module).main()
        sys.exit(f"{module} reads no options")
"""


def test_options_of_benchmarks_are_read() -> None:
    lines = [shlex.split(str(command.values[0]), comments=True) for command in commands()]
    with_options = [words[2:] for words in lines if words[2:3] and words[2].startswith("benchmarks.") and words[3:]]
    assert len(with_options) > 4
    command = [sys.executable, "-c", OPTIONS_OF_BENCHMARKS, json.dumps(with_options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_run(words: list[str]) -> None:
    """Raise if `experiments.run` would refuse these words."""
    typed = [word for word in words if word not in ("-m", "--dry-run") and not word.startswith("hydra.run.")]
    if typed == ["--help"]:
        return
    if is_sweep(words):
        of_study = ["loss=infonce", "seed=0"] if any(word.startswith("+sweep") for word in words) else []
        assert jobs(*typed, *of_study)  # of a named study one job is enough
    else:
        check_complete(check_settings(typed), "encoder", "data", "negatives")


@cache
def jobs(*words: str) -> int:
    return len(expand(words).jobs)


def check_settings(words: list[str]) -> DictConfig:
    """Compose, and raise if a choice, a key, or an option that a plus adds does not exist."""
    if any(word.startswith("launcher") for word in words):
        return expand(words).launcher
    with Composer() as composer:
        config, left_out = compose_applicable(composer, [], words)
    check_known(config)
    assert not left_out
    return config


def check_program(module: str, words: list[str], options_of: ReadOptions) -> None:
    """Raise if a program would refuse these words, or Hydra the settings among them."""
    options = options_of(f"{module}.__main__", words)
    if "space" in options:
        with Composer() as composer:
            assert make_plan(read_space(options.space), options.values, options.validations, composer).space
    elif "data" in options:
        typed = options.overrides if "overrides" in options else options.words  # of a search, with its query
        settings = [word for word in typed if SETTING.fullmatch(word)]
        strategy = [f"negatives={options.strategy}"] if "strategy" in options else []
        compose(model=options.model, data=options.data, overrides=[*strategy, *settings])


def check_installed(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    constraints, target = words[words.index("-c") + 1], words[-1]
    assert (ROOT / constraints).is_file()
    assert target == "." or target.removeprefix(".[").removesuffix("]") in extras


def test_the_set_up_commands_stand_on_lines_of_their_own() -> None:
    """`.ci/run` and benchmarks/setup_commands.py find them by these patterns."""
    text = TEXTS["README.md"]
    assert len(re.findall(r"^python -m pip install .*python -m pytest.*$", text, flags=re.MULTILINE)) == 1
    assert len(re.findall(r"^python -m pip install .*&&.*$", text, flags=re.MULTILINE)) == 2


def test_the_readme_is_read_in_five_minutes() -> None:
    assert README.stat().st_size <= 8_192


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[Any]:
    for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "experiments" / "LOG.md"]:
        text = page.read_text(encoding="utf-8")
        for link in dict.fromkeys(LINK.findall(INLINE.sub("`", FENCE.sub("", text)))):
            if not re.match(r"https?://", link):
                yield pytest.param(page, link, id=f"{page.relative_to(ROOT)}: {link}")


@pytest.mark.parametrize(("page", "link"), list(links()))
def test_links_lead_somewhere(page: Path, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    assert target.exists()
    assert target.is_relative_to(ROOT)
    assert not anchor or anchor in anchors(target.read_text(encoding="utf-8"))


def test_every_page_is_in_the_index() -> None:
    index = TEXTS["docs/README.md"]
    assert [page.name for page in PAGES if page.parent.name == "docs" and page.name not in index] == []
    assert "docs/README.md" in LINK.findall(TEXTS["README.md"])


@pytest.mark.parametrize("page", TEXTS)
def test_what_is_named_is_there(page: str) -> None:
    """Modules and what they hold, folders and files, and tests: `a.py::test_one`, `::test_two` of the same file."""
    missing, file = [], None
    for code in INLINE.findall(FENCE.sub("", TEXTS[page])):
        path, _, test = code.partition("::")
        if re.search(r"\b(NAME|CLASS|WORD|OPTION)\b", path):  # to be replaced, as in `contrastive/losses/NAME.py`
            continue
        if re.fullmatch(rf"{PLACES}/[\w./-]*", path):
            file = ROOT / path
            missing += [] if file.exists() else [code]
        elif re.fullmatch(r"(contrastive|experiments|benchmarks)(\.\w+)+", path):
            try:
                pkgutil.resolve_name(path)
            except (ImportError, AttributeError):
                missing.append(code)
        if test and (file is None or not file.is_file() or f"def {test}(" not in file.read_text()):
            missing.append(code)
    assert not missing, "\n".join(missing)


def rows(text: str) -> dict[str, str]:
    """The lines of tables by their first cell."""
    return {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}


@pytest.mark.parametrize(
    ("heading", "result"),
    [
        ("The default run", "default"),
        ("One vector a text", "one_vector"),
        ("Weighed queries", "weighted"),
        ("Real postings", "real"),
        ("Postings without queries", "corpus"),
    ],
)
def test_tables_of_quality_are_the_results_that_are_kept(heading: str, result: str) -> None:
    section = TEXTS["docs/measurements.md"].split(f"\n## {heading}\n")[1].split("\n## ")[0]
    systems = json.loads((ROOT / "benchmarks" / "results" / f"main_path-{result}.json").read_text())["systems"]
    shown = rows(section)
    checked = [name for name in systems if name in shown]
    assert len(checked) >= 4
    for name in checked:
        assert shown[name] == row(name, systems[name])


def test_the_table_of_the_readme_is_that_of_the_default_run() -> None:
    names = {name: name for name in ("BM25", "BM25+spelling", "hybrid")}
    names |= {"encoder before": "untuned", "encoder after": "infonce, seed 0"}
    shown = rows(TEXTS["README.md"])
    systems = json.loads((ROOT / "benchmarks" / "results" / "main_path-default.json").read_text())["systems"]
    for name, system in names.items():
        assert shown[name] == row(name, systems[system])


def row(name: str, metrics: dict[str, dict[str, float]]) -> str:
    """A line of a table of quality."""
    cells = [
        f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
        for metric in ("ndcg@10", "mrr@10", "recall@10", "recall@100")
        for found in [metrics[metric]]
    ]
    return f"| {name} | {' | '.join(cells)} |"
