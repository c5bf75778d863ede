"""Translation from files to files: reversal and dates, learned to the last letter."""

import json
import random

import pytest

import unspool
from unspool.cli import main
from unspool.search import Beam

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def call(*words):
    return main([str(word) for word in words])


def reversals(count, seed):
    chance = random.Random(seed)
    words = ["".join(chance.choice("abcdefgh") for _ in range(chance.randint(2, 7))) for _ in range(count)]
    return [(word, word[::-1]) for word in words]


def dates(count, seed):
    chance, rows = random.Random(seed), []
    for _ in range(count):
        year, month, day = chance.randint(1900, 2099), chance.randint(1, 12), chance.randint(1, 28)
        name = MONTHS[month - 1]
        written = chance.choice([f"{day} {name} {year}", f"{name} {day}, {year}", f"{day}.{month}.{year}"])
        rows.append((written, f"{year}-{month:02d}-{day:02d}"))
    return rows


def write(folder, name, rows):
    for side, suffix in ((0, "in"), (1, "out")):
        (folder / f"{name}.{suffix}").write_text("".join(row[side] + "\n" for row in rows), encoding="utf-8")


def train(folder, *flags):
    files = [f for kind in ("train", "dev") for side, suffix in (("source", "in"), ("target", "out"))
             for f in (f"--{side}-{kind}", folder / f"{kind}.{suffix}")]  # fmt: skip
    small = [
        "--unit",
        "character",
        "--hidden-size",
        64,
        "--embedding-size",
        32,
        "--dropout",
        0.0,
        "--label-smoothing",
        0.0,
    ]
    return call(
        "train", "translation", *files, "--out", folder / "m", *small, "--learning-rate", 0.005, "--json", *flags
    )


@pytest.fixture(scope="module", params=[reversals, dates])
def learned(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.__name__)
    for name, count in (("train", 3000), ("dev", 200), ("test", 200)):
        write(folder, name, request.param(count, len(name)))
    assert train(folder, "--epochs", 20, "--batch-symbols", 500) == 0
    return folder


def test_it_is_learned_to_the_last_letter(learned):
    assert call("predict", learned / "m", learned / "test.in", "--out", learned / "found") == 0
    assert (learned / "found").read_text() == (learned / "test.out").read_text()


def test_figures_are_those_of_sacrebleu(learned, capsys):
    assert (
        call("evaluate", learned / "m", "--source", learned / "test.in", "--target", learned / "test.out", "--json")
        == 0
    )
    values = json.loads(capsys.readouterr().out)
    assert values["chrf"] == pytest.approx(100.0)
    assert values["perplexity"] < 1.1
    assert "tok:13a" in values["signatures"]["sacrebleu"]
    assert call("evaluate", learned / "m", "--data", learned / "test.in") == 2
    assert "is measured with --source and --target" in capsys.readouterr().err


def test_every_line_has_a_line(learned, capsys):
    (learned / "odd.in").write_text("\n   \nabc\n" + "abcdefgh" * 50 + "\n\u2028abc\nxyz~\n", encoding="utf-8")
    assert call("predict", learned / "m", learned / "odd.in", "--beam-size", 2) == 0
    found = capsys.readouterr().out.split("\n")
    assert len(found) == 7
    assert found[:2] == ["", ""]


def test_the_best_come_with_scores_and_a_page_shows_where_the_model_looked(learned, capsys):
    (learned / "two.in").write_text("abc\n\n", encoding="utf-8")
    flags = ["--n-best", 3, "--attention", learned / "page.html"]
    assert call("predict", learned / "m", learned / "two.in", *flags) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [row["log_probability"] for row in first] == sorted((row["log_probability"] for row in first), reverse=True)
    assert len(first) == 3
    assert second[0]["text"] == ""
    page = (learned / "page.html").read_text(encoding="utf-8")
    assert page.count("<table>") == 1
    assert "http" not in page
    translator = unspool.load(learned / "m")
    assert translator.translate("abc") == first[0]["text"]
    assert len(translator.hypotheses("abc", Beam(num_best=2))) == 2


def test_a_translator_is_diagnosed_like_any_other_model(learned, capsys):
    page = learned / "diagnosis.html"
    assert call("diagnose", learned / "m", "--sequences", 3, "--out", page) == 0
    shown = capsys.readouterr()
    assert "the 3 longest pairs of validation" in shown.err
    assert page.exists()


def test_words_that_the_model_does_not_know_are_taken_from_the_source(tmp_path, capsys):
    chance = random.Random(0)
    rows = [(" ".join(words), " ".join(words).upper()) for words in
            ([chance.choice("abcdefgh") for _ in range(chance.randint(1, 5))] for _ in range(800))]  # fmt: skip
    rows += [(f"a n{n}", f"A n{n}") for n in range(200)]
    for name in ("train", "dev"):
        write(tmp_path, name, rows)
    assert train(tmp_path, "--unit", "word", "--epochs", 8, "--batch-symbols", 150, "--no-shared-vocabulary") == 0
    capsys.readouterr()
    (tmp_path / "new.in").write_text("a Zürich\n", encoding="utf-8")
    assert call("predict", tmp_path / "m", tmp_path / "new.in") == 0
    assert capsys.readouterr().out == "A Zürich\n"


def test_a_table_does_for_two_files_and_what_is_left_out_is_counted(tmp_path, capsys):
    rows = [*reversals(60, 1), ("", "x"), ("a" * 90, "b")]
    (tmp_path / "train.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    flags = ["--unit", "character", "--hidden-size", 8, "--embedding-size", 8, "--max-steps", 2, "--longest", 80]
    assert call("train", "translation", "--source-train", tmp_path / "train.tsv", "--out", tmp_path / "m", *flags) == 0
    shown = capsys.readouterr().err
    assert "1 of 62 pairs left out, with an empty side" in shown
    assert "1 of 62 pairs left out, too long" in shown
    assert call("check", "translation", tmp_path / "train.tsv") == 2
    assert "train.tsv:61: the line is empty, its partner is not" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, capsys):
    write(tmp_path, "train", reversals(20, 1))
    (tmp_path / "short").write_text("a\n", encoding="utf-8")
    (tmp_path / "latin").write_bytes("gut\ngrün\n".encode("latin-1"))
    start = ["train", "translation", "--out", tmp_path / "m"]
    source = ["--source-train", tmp_path / "train.in"]
    for arguments, message in (
        (start, "source_train must be a file with a sentence a line"),
        ([*start, *source], "target_train must be a file, since the source is no .tsv"),
        ([*start, *source, "--target-train", tmp_path / "short"], "they must be aligned line by line"),
        ([*start, *source, "--target-train", tmp_path / "latin"], "latin:2: not UTF-8 (byte 3 of the line)"),
        ([*start, *source, "--target-train", tmp_path / "none"], "none: no such file"),
        (["check", "translation", tmp_path / "train.in"], "no target file after it"),
    ):
        assert call(*arguments) == 2
        assert message in capsys.readouterr().err


def test_translations_are_drawn_and_equal_seeds_draw_equal_ones(learned, capsys):
    (learned / "two.in").write_text("abc\n\nabd\n", encoding="utf-8")

    def draw(*flags):
        assert call("predict", learned / "m", learned / "two.in", "--temperature", 2.0, *flags) == 0
        return capsys.readouterr().out

    assert len(draw().split("\n")) == 4
    assert draw("--seed", 1, "--n-best", 3) == draw("--seed", 1, "--n-best", 3) != draw("--seed", 2, "--n-best", 3)
    assert call("predict", learned / "m", learned / "two.in", "--temperature", 1, "--beam-size", 2) == 2
    assert "--beam-size means nothing to a translator that draws" in capsys.readouterr().err


def test_products_in_bfloat16_give_the_same_reversals(learned, capsys):
    files = [learned / "test.in", "--precision"]
    assert call("predict", learned / "m", *files, "bfloat16") == 0
    found, wanted = capsys.readouterr().out.splitlines(), (learned / "test.out").read_text().splitlines()
    assert sum(one == other for one, other in zip(found, wanted, strict=True)) > 0.95 * len(wanted)
    assert call("predict", learned / "m", *files, "float8") == 2
    assert "precision must be float32 or bfloat16, got 'float8'" in capsys.readouterr().err


def test_a_translator_without_attention_shows_none(tmp_path, capsys):
    write(tmp_path, "train", reversals(60, 1))
    write(tmp_path, "dev", reversals(5, 2))
    assert train(tmp_path, "--attention", "none", "--max-steps", 2) == 0
    for flag in (["--attention", tmp_path / "page.html"], ["--coverage-penalty", 0.5]):
        capsys.readouterr()
        assert call("predict", tmp_path / "m", tmp_path / "dev.in", *flag) == 2
        shown = capsys.readouterr()
        assert "this translator has no attention" in shown.err
        assert not shown.out
    assert not (tmp_path / "page.html").exists()
