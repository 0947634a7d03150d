"""`fewshot compare`: what is printed, the files it writes, its exit status."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipelines.cli import main
from tests.evaluated_run import EvaluatedRun

Out = pytest.CaptureFixture[str]
METHODS = {"protonet": 0.8, "smkd": 0.82, "<awgim>": 0.6}
VOID = {"meta", "link", "path", "use", "rect", "line"}


class Nesting(HTMLParser):
    """Checks that tags close in order, and collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    for number, (name, level) in enumerate(METHODS.items()):
        for seed in range(2):
            EvaluatedRun(
                root / name, {"train": level}, seed=seed, lr=number + 1, settings={"tasks": 200},
                protocols=("method",), baselines={"pixels": 0.1}, cpu_minutes=19.5 + seed,
            ).write()  # fmt: skip
    return [str(root / name) for name in METHODS]


def test_the_table_has_a_line_per_method_and_words_below(paths: list[str], capsys: Out) -> None:
    assert main(["compare", *paths, "--shots", "1"]) == 0
    out = capsys.readouterr().out
    title, _, head, rule, *rows = out.splitlines()[:8]
    assert (
        title
        == "5-way 1-shot: 200 episodes of 20 classes (novel), 15 queries per class, chance 20 %"
    )
    assert head.split("  ")[0] == "method"
    assert set(rule) == {"-"}
    assert [row.split()[0] for row in rows] == ["smkd", "protonet", "<awgim>", "pixels"]
    assert re.search(
        r"smkd +\d\d\.\d\d ± \d\.\d\d +± \d\.\d\d +2, sd \d\.\d\d +20\.0 .*\(the best\)", out
    )
    assert re.search(r"pixels .* – +– +−\d\d\.\d\d ± \d\.\d\d +± \d\.\d\d  other classes too", out)
    assert "- Best: smkd with" in out
    assert "(here up to 6)" in out


def test_a_baseline_is_marked_in_the_table(paths: list[str], capsys: Out) -> None:
    assert main(["compare", *paths, "--shots=1", "--baseline", "protonet"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"protonet .*\(baseline\)", out)
    assert re.search(r"smkd .* \+\d\.\d\d ± ", out)


def test_a_run_may_stand_after_an_option(paths: list[str], capsys: Out) -> None:
    assert main(["compare", paths[0], "--shots", "1", *paths[1:]]) == 0
    assert "<awgim>" in capsys.readouterr().out


def test_lines_are_no_wider_than_the_terminal_but_for_the_table(
    paths: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    main(["compare", *paths])
    out = capsys.readouterr().out
    words = [line for line in out.splitlines() if line.startswith(("- ", "  "))]
    assert max(map(len, words)) <= 60


def test_every_sort_of_file_can_be_written_at_once(
    paths: list[str], tmp_path: Path, capsys: Out
) -> None:
    names = [f"all{suffix}" for suffix in (".html", ".png", ".md", ".json")]
    outs = [part for name in names for part in ("--out", str(tmp_path / "new" / name))]
    assert main(["compare", *paths, *outs]) == 0
    assert capsys.readouterr().err.count("written: ") == 4
    html, png, text, numbers = (tmp_path / "new" / name for name in names)
    check_page(html.read_text())
    picture = Image.open(io.BytesIO(png.read_bytes()))
    assert (picture.format, picture.width > 800) == ("PNG", True)
    check_markdown(text.read_text())
    check_numbers(json.loads(numbers.read_text()))


def check_page(html: str) -> None:
    parser = Nesting()
    parser.feed(html)
    assert parser.open == []
    assert all(address.startswith(("data:", "#")) for address in parser.addresses)
    assert "<script" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "&lt;awgim&gt;" in html
    assert "<awgim>" not in html
    assert html.count("<svg") == 3  # one forest, a matrix per setting
    assert "#010203" not in html
    assert "Best: smkd with" in html


def check_markdown(text: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * (2 + 4)
    assert len({line.count("|") for line in lines}) == 1
    assert "### 5-way 5-shot: 200 episodes" in text


def check_numbers(tree: dict[str, list[dict[str, object]]]) -> None:
    first = tree["panels"][0]
    rows, differences = first["rows"], first["differences"]
    assert isinstance(rows, list)
    assert isinstance(differences, list)
    assert [row["name"] for row in rows] == ["smkd", "protonet", "<awgim>", "pixels"]
    assert [run["seed"] for run in rows[0]["runs"]] == [0, 1]
    assert len(differences) == 6
    ahead = differences[0]
    assert ahead["mean"] == pytest.approx(rows[0]["mean"] - rows[1]["mean"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--out", "a.pdf"], "--out a.pdf: the name must end in .html, .png, .md, .json"),
        (["--out", "a.jsn"], "did you mean '.json'?"),
        (["--shots", "one"], "'one' is not a list of numbers like 1,5"),
        (["--shots", "7"], "--shots: nothing has 7; there is 1, 5"),
        (["--baseline", "smdk"], "no method is called 'smdk'; did you mean 'smkd'?"),
        (["--by", "day"], "invalid choice: 'day'"),
    ],
)
def test_a_mistake_is_one_message_and_exit_status_2(
    paths: list[str], capsys: Out, argv: list[str], words: str
) -> None:
    assert main(["compare", *paths, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_help_does_not_import_torch_or_pyarrow() -> None:
    code = (
        "import sys; from pipelines.cli import main; print(main(['compare', '--help']));"
        "print(sorted({'torch', 'pydantic', 'matplotlib', 'pyarrow', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
    assert "--baseline NAME" in done.stdout
