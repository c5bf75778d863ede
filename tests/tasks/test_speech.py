"""Speech from files to text, on a made-up language whose letters are tones."""

import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

soundfile = pytest.importorskip("soundfile", reason="the extra speech is not installed")
pytest.importorskip("jiwer")

import unspool  # noqa: E402
from unspool.cli import main  # noqa: E402
from unspool.data import Lines, build_tokenizer  # noqa: E402
from unspool.errors import ConfigError, DataError  # noqa: E402
from unspool.search.ctc import PrefixBeam  # noqa: E402
from unspool.tasks import Listening, check_recordings  # noqa: E402
from unspool.tasks.speech.alphabet import Alphabet, Word  # noqa: E402
from unspool.tasks.speech.features import FeatureSettings, features_of  # noqa: E402
from unspool.tasks.speech.manifest import read_utterances  # noqa: E402
from unspool.tasks.speech.recordings import Normalizer, SpeechBatches, add_noise  # noqa: E402
from unspool.tasks.speech.settings import SpeechData  # noqa: E402
from unspool.tasks.speech.subtitles import subtitles  # noqa: E402
from unspool.tasks.speech.trained import _cut  # noqa: E402

RATE = 8000
PITCH = {"a": 400, "b": 900, "c": 1800, " ": 3000}
SMALL = ["--stride", 2, "--window", 2, "--sample-rate", RATE, "--num-filters", 24, "--hidden-size", 32, "--num-layers", 1,
         "--dropout", 0.0, "--feature-masks", 0, "--time-masks", 0, "--learning-rate", 0.01,
         "--batch-seconds", 12]  # fmt: skip


def call(*words):
    return main([str(word) for word in words])


def speak(text, chance):
    """A tone of about a tenth of a second for each letter and between words, with silence around."""
    parts = [np.zeros(int(RATE * 0.05))]
    for letter in text:
        count = int(RATE * chance.uniform(0.08, 0.14))
        parts.append(0.3 * np.sin(2 * np.pi * PITCH[letter] * np.arange(count) / RATE))
        parts.append(np.zeros(int(RATE * 0.03)))
    sound = np.concatenate([*parts, np.zeros(int(RATE * chance.uniform(0.05, 0.8)))])
    return (sound + chance.normal(0, 0.003, len(sound))).astype(np.float32)


def pause(seconds, chance):
    return chance.normal(0, 0.003, int(RATE * seconds)).astype(np.float32)


def say(chance):
    words = ["".join(chance.choice(list("abc"), chance.integers(1, 4))) for _ in range(chance.integers(1, 3))]
    return " ".join(words)


def record(folder, name, count, seed):
    chance, rows = np.random.default_rng(seed), []
    for number in range(count):
        text = say(chance)
        sound = speak(text, chance)
        soundfile.write(folder / f"{name}{number}.wav", sound, RATE)
        rows.append({"audio_filepath": f"{name}{number}.wav", "duration": len(sound) / RATE, "text": text})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    for seed, (name, count) in enumerate((("train", 120), ("dev", 15), ("test", 20))):
        record(folder, name, count, seed)
    return folder


@pytest.fixture(
    scope="module", params=[[], ["--no-bidirectional", "--look-ahead", 2, "--deltas", 1]], ids=["both", "one"]
)
def learned(request, corpus):
    out = corpus / f"m{len(request.param)}"
    files = ["--train", corpus / "train.jsonl", "--dev", corpus / "dev.jsonl"]
    assert call("train", "speech", *files, "--out", out, *SMALL, *request.param, "--epochs", 60, "--json") == 0
    return out


def test_it_is_learned_to_the_last_word(learned, corpus, capsys):
    assert call("evaluate", learned, "--data", corpus / "test.jsonl", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["word_error_rate"] == values["character_error_rate"] == 0.0
    assert values["worst"] == []
    flags = ["--language-model", "train", "--lm-weight", 0.1, "--beam-size", 8, "--hot-words", "abc"]
    assert call("evaluate", learned, "--data", "validation", *flags, "--json") == 0
    assert json.loads(capsys.readouterr().out)["word_error_rate"] < 0.1


def test_words_have_the_times_of_their_tones(learned):
    class Even:
        """Chance without chance: a from 0.05 s to 0.16 s, b to 0.30 s, the gap to 0.44 s, c to 0.58 s."""

        normal = np.random.default_rng(9).normal

        def uniform(self, low, high):
            return (low + high) / 2

    heard = unspool.load(learned).transcribe(speak("ab c", Even()), RATE)
    assert heard.text == "ab c"
    first, second = heard.words
    assert 0.02 < first.begin < 0.2
    assert 0.18 < first.end < 0.38
    assert 0.44 < second.begin < second.end < 0.66
    assert 0.5 < first.confidence <= 1


def test_a_stream_cut_anywhere_gives_the_offline_bits(learned, corpus):
    recogniser = unspool.load(learned)
    if recogniser.model.bidirectional:
        with pytest.raises(ConfigError, match="cannot stream; train one with --no-bidirectional"):
            recogniser.stream()
        return
    chance = np.random.default_rng(5)
    sound = np.concatenate([speak("abc cba", chance), pause(1.0, chance)])

    def run(sizes, rate=RATE, listening=Listening(endpoint_seconds=0.5)):
        stream, seen, found, at = recogniser.stream(rate, listening), [], [], 0
        advance = stream.model.classify

        def watched(h):
            chances = advance(h)
            seen.append(chances.clone())
            return chances

        stream.model.classify = watched
        try:
            while at < len(sound):
                size = int(next(sizes))
                found += stream.feed(sound[at : at + size])
                stream.partial()
                at += size
            found += stream.finish()
        finally:
            del stream.model.classify
        state = [tensor for layer in stream.layers.state for tensor in layer]
        return [one.text for one in found], seen, state

    for rate in (RATE, 11_025):
        whole = run(iter([len(sound)]), rate)
        for seed in range(3):
            chance = np.random.default_rng(seed)
            texts, seen, state = run(iter(lambda chance=chance: chance.integers(0, 900), None), rate)
            assert texts == whole[0]
            assert all(a.equal(b) for a, b in zip(seen, whole[1], strict=True))
            assert all(a.equal(b) for a, b in zip(state, whole[2], strict=True))
    assert whole[0][-1] == ""  # silence has ended the utterance before the end
    offline = recogniser.transcribe(sound, RATE)
    assert " ".join(run(iter([999] * 99))[0]).strip() == offline.text == "abc cba"
    batch = recogniser.task.frames_of(sound)
    assert len(run(iter([len(sound)]))[1]) == -(-len(batch) // 2)


def test_a_stream_refuses_what_is_no_sound(learned):
    recogniser = unspool.load(learned)
    if not recogniser.model.bidirectional:
        with pytest.raises(DataError, match="finite samples"):
            recogniser.stream().feed(np.array([0.0, np.nan]))
        with pytest.raises(ConfigError, match="rate must be between 100 and"):
            recogniser.stream(-1)
    with pytest.raises(DataError, match="shorter than one frame"):
        recogniser.transcribe(np.zeros(10, np.float32), RATE)


def test_files_become_text_json_and_subtitles(learned, corpus, capsys):
    rows = [json.loads(line) for line in (corpus / "test.jsonl").read_text().splitlines()]
    files = [corpus / row["audio_filepath"] for row in rows[:3]]
    assert call("predict", learned, *files) == 0
    assert capsys.readouterr().out.splitlines() == [row["text"] for row in rows[:3]]
    assert call("predict", learned, corpus / "test.jsonl", "--format", "json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert all(" ".join(word["text"] for word in row["words"]) == row["text"] for row in found)
    assert call("predict", learned, files[0], "--format", "srt", "--out", corpus / "one.srt") == 0
    assert (corpus / "one.srt").read_text().startswith("1\n00:00:00,")
    assert call("predict", learned, *files, "--format", "vtt") == 2
    assert "format vtt is of one file" in capsys.readouterr().err
    assert call("predict", learned, files[0], "--scores") == 2
    assert "--scores means nothing to a recogniser" in capsys.readouterr().err


def test_raw_sound_on_standard_input(learned, corpus, capsys, monkeypatch, tmp_path):
    if unspool.load(learned).model.bidirectional:
        return
    chance = np.random.default_rng(2)
    sound = np.concatenate([speak("abc", chance), pause(1.0, chance), speak("ca", chance)])
    (tmp_path / "raw").write_bytes((sound * 32767).astype("<i2").tobytes())
    with (tmp_path / "raw").open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        assert call("predict", learned, "-", "--raw-rate", RATE, "--endpoint-seconds", 0.4) == 0
    assert capsys.readouterr().out.splitlines() == ["abc", "ca"]


@pytest.fixture
def bad(tmp_path):
    """A list with one good recording and all that is bad."""
    rows = record(tmp_path, "good", 1, 4)
    chance = np.random.default_rng(6)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "cut.wav", speak("abc", chance), RATE)
    whole = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", np.zeros(50, np.float32), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE, np.float32), RATE)
    soundfile.write(tmp_path / "loud.wav", np.ones(RATE, np.float32), RATE)
    soundfile.write(tmp_path / "brief.wav", speak("a", chance), RATE)
    names = ["empty", "text", "cut", "nan", "short", "silent", "loud", "missing"]
    rows += [{"audio_filepath": f"{name}.wav", "text": "ab"} for name in names]
    rows.append({"audio_filepath": "brief.wav", "text": "abc " * 30})
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_bad_recordings_are_refused_or_named_and_left_out(bad, capsys):
    train = ["train", "speech", "--train", bad / "bad.jsonl", *SMALL, "--epochs", 1, "--out"]
    assert call(*train, bad / "m") == 2
    assert "bad.jsonl:2: " in (error := capsys.readouterr().err)
    assert "empty.wav" in error
    assert "--skip-bad" in error
    assert call(*train, bad / "m", "--skip-bad") == 0
    told = capsys.readouterr().err
    for name in ("empty", "text", "cut", "nan", "short", "missing", "brief"):
        assert f"{name}.wav" in told
    assert "7 of 10 recordings left out" in told
    assert "its text needs 119 steps" in told
    assert call("evaluate", bad / "m", "--data", bad / "bad.jsonl", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_left_out"] == 6
    assert call("predict", bad / "m", bad / "nan.wav") == 2
    assert "nan.wav: has samples that are no numbers" in capsys.readouterr().err
    assert call("predict", bad / "m", bad / "nan.wav", bad / "good0.wav", "--skip-bad") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_check_names_what_is_bad_and_what_may_surprise(bad, capsys):
    assert call("check", "speech", bad / "bad.jsonl", "--json") == 2
    found = check_recordings([str(bad / "bad.jsonl")])
    assert len(found.problems) == 5
    notes = "\n".join(found.notes)
    assert "silent.wav: silence" in notes.replace(str(bad), "")
    assert "loud.wav: clipped, 99" in notes.replace(str(bad), "")
    assert "brief.wav: 119 characters" in notes.replace(str(bad), "")
    values = found.values[str(bad / "bad.jsonl")]
    assert values["recordings"] == 10
    assert values["different characters"] == 4


def test_lists_of_every_kind_name_the_same_recordings(corpus, tmp_path):
    wanted = read_utterances(str(corpus / "test.jsonl"))
    rows = [(one.path, one.text) for one in wanted]
    for suffix, mark in (("tsv", "\t"), ("csv", ",")):
        text = f"audio_filepath{mark}text\n" + "".join(f"{path}{mark}{text}\n" for path, text in rows)
        (tmp_path / f"list.{suffix}").write_text(text)
        assert [one[2:] for one in read_utterances(str(tmp_path / f"list.{suffix}"))] == [one[2:] for one in wanted]
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text("".join(f"r{n} {path}\n" for n, (path, _) in enumerate(rows)))
    (kaldi / "text").write_text("".join(f"r{n} {text}\n" for n, (_, text) in enumerate(rows)))
    assert [one[2:] for one in read_utterances(str(kaldi))] == [one[2:] for one in wanted]
    (kaldi / "segments").write_text("r0 r1 0.1 0.25\n")
    with pytest.raises(DataError, match=r"text:\d+: 'r\d+' must be in text and in segments"):
        read_utterances(str(kaldi))
    (kaldi / "text").write_text(f"r0 {rows[0][1]}\n")
    (cut,) = read_utterances(str(kaldi))
    assert (cut.path, cut.begin, cut.end, cut.text) == (rows[1][0], 0.1, 0.25, rows[0][1])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"audio_filepath": "x.wav"}\n', r"a\.jsonl:1: expected audio_filepath and text"),
        ("a.jsonl", "\nnonsense\n", r"a\.jsonl:2: not JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: expected an object"),
        ("a.jsonl", '{"audio_filepath": "x", "text": "", "offset": "soon"}\n', "offset must be seconds"),
        ("a.jsonl", "", "names no recordings"),
        ("a.tsv", "audio_filepath\ttext\nx.wav\n", r"a\.tsv:2: 1 columns, the first line names 2"),
        ("a.txt", "x", "expected .jsonl"),
        ("missing.jsonl", None, "no such file"),
        ("a.npz", "x", "no .npz file"),
        ("a.npz", "", "no .npz file"),
        ("a.jsonl", '{"audio_filepath": "x", "text": null}\n', r"found audio_filepath \(str\), text \(NoneType\)"),
        ("a.jsonl", '{"audio_filepath": "x", "text": "a\\ud800"}\n', "both as Unicode text"),
        ("a.jsonl", "[" * 100_000 + "\n", r"a\.jsonl:1: not JSON"),
        ("a.jsonl", '{"audio_filepath": "x", "text": "", "offset": 1' + "0" * 400 + "}\n", "offset must be seconds"),
        ("a.csv", 'audio_filepath,text\nx.wav,a\nx.wav,"b\ny.wav,c\n', r"a\.csv:3: a row must be one line"),
        ("a.csv", 'audio_filepath,text\nx.wav,"a\nb"\n', r"a\.csv:2: a row must be one line"),
        ("a.csv", "audio_filepath,text\nx.wav," + "a" * 200_000 + "\n", r"a\.csv:2: .*field larger"),
        ("a.csv", "audio_filepath,text,text\nx.wav,a,b\n", r"a\.csv:1: two columns have the same name"),
    ],
)
def test_malformed_lists_are_refused_by_line(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_utterances(str(tmp_path / name))


def test_features_of_somebody_else_are_read_beside_their_table(tmp_path, capsys):
    chance = np.random.default_rng(0)
    frames = {f"u{n}": chance.normal(size=(30 + n, 5)).astype(np.float32) for n in range(6)}
    np.savez(tmp_path / "own.npz", **frames)
    (tmp_path / "own.tsv").write_text("utterance\ttext\n" + "".join(f"{name}\tab\n" for name in frames))
    flags = [*SMALL, "--epochs", 2, "--deltas", 2, "--speeds", "0.8,1.25", "--out", tmp_path / "m"]
    assert call("train", "speech", "--train", tmp_path / "own.npz", *flags) == 0
    assert call("predict", tmp_path / "m", tmp_path / "own.npz") == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    frames["u3"][4, 2] = np.inf
    np.savez(tmp_path / "own.npz", **frames)
    with pytest.raises(DataError, match=r"own\.tsv:5: .*u3 has features that are no numbers"):
        read_utterances(str(tmp_path / "own.npz"))[3].read(unspool.load(tmp_path / "m").task.features)


@pytest.mark.parametrize(
    "frames", [np.ones((3, 0)), np.ones((3, 2), complex), np.array([["1.5", "2"]]), np.full((3, 2), 1e30)]
)
def test_features_that_are_none_are_refused_by_line(tmp_path, frames):
    np.savez(tmp_path / "own.npz", u0=frames)
    (tmp_path / "own.tsv").write_text("utterance\ttext\nu0\tab\n")
    with pytest.raises(DataError, match=r"own\.tsv:2: .*own\.npz: u0 (must be|has features)"):
        read_utterances(str(tmp_path / "own.npz"))[0].read(FeatureSettings())


def test_kaldi_folders_name_a_key_once(tmp_path):
    (tmp_path / "wav.scp").write_text("r0 a.wav\nr0 b.wav\n")
    (tmp_path / "text").write_text("r0 x\n")
    with pytest.raises(DataError, match=r"wav\.scp:2: r0 stands here a second time"):
        read_utterances(str(tmp_path))


def test_matrices_of_features_are_heard_at_other_speeds():
    data = SpeechData(train="own.npz", speeds="1.25", feature_masks=0, time_masks=0)
    recordings = SimpleNamespace(width=2, frames=[6], size=1)
    batches = SpeechBatches(recordings, data, FeatureSettings(), Normalizer("none", np.zeros(2), np.ones(2)), seed=0)
    ramp = np.arange(6, dtype=np.float32)[:, None] * np.array([1, -10], np.float32)
    heard = batches._masked(ramp, np.random.default_rng(0))
    np.testing.assert_allclose(heard[:, 0], [0, 1.25, 2.5, 3.75, 5], rtol=1e-6)
    np.testing.assert_allclose(heard[:, 1], -10 * heard[:, 0], rtol=1e-6)
    assert len(batches._masked(ramp[:1], np.random.default_rng(0))) == 1


def test_no_speed_reads_beyond_the_last_frame():
    for speed in (0.85, 0.95, 1.05, 1.15):
        data = SpeechData(train="own.npz", speeds=str(speed), feature_masks=0, time_masks=0)
        recordings = SimpleNamespace(width=1, frames=[6], size=1)
        batches = SpeechBatches(
            recordings, data, FeatureSettings(), Normalizer("none", np.zeros(1), np.ones(1)), seed=0
        )
        for length in range(1, 400):
            heard = batches._masked(np.arange(length, dtype=np.float32)[:, None], np.random.default_rng(0))
            assert heard.min() == 0
            assert heard.max() <= length - 1


def test_training_hears_other_speeds_loudness_and_noise_and_repeats_itself(corpus, capsys):
    flags = ["--speeds", "0.9,1,1.1", "--gain-db", 6, "--noise-snr", "10-20", "--epochs", 2, "--json"]
    outcomes = []
    for name in ("n1", "n2"):
        out = corpus / name
        assert call("train", "speech", "--train", corpus / "dev.jsonl", *SMALL, *flags, "--out", out) == 0
        outcomes.append((out / "weights.safetensors").read_bytes())
    assert outcomes[0] == outcomes[1]
    assert call("train", "speech", "--train", corpus / "dev.jsonl", "--speeds", "fast", "--out", corpus / "n3") == 2
    assert "speeds must be numbers as in 0.9,1,1.1" in capsys.readouterr().err


@pytest.mark.parametrize("decibels", [-5.0, 0.0, 20.0])
def test_noise_has_the_power_that_is_asked_for(decibels):
    chance = np.random.default_rng(1)
    signal, noise = np.sin(np.arange(5000) / 7).astype(np.float32), chance.normal(size=5000).astype(np.float32)
    added = add_noise(signal, noise, decibels) - signal
    assert 10 * math.log10(np.mean(signal**2) / np.mean(added**2)) == pytest.approx(decibels, abs=1e-3)


@pytest.mark.parametrize("look_ahead", [0, 2])
def test_a_stream_is_the_model_over_the_whole_recording(look_ahead):
    from unspool.cells import LSTM
    from unspool.models.ctc import CTCModel
    from unspool.search.ctc import GreedySearch
    from unspool.tasks.speech.stream import SpeechStream

    class Kept(GreedySearch):
        rows = []

        def advance(self, chances):
            self.rows.append(chances)
            super().advance(chances)

    torch.manual_seed(0)
    settings, normalizer = FeatureSettings(sample_rate=8000), Normalizer("global", np.zeros(40), np.ones(40))
    model = CTCModel(40, 5, LSTM, 16, 2, bidirectional=False, look_ahead=look_ahead).eval()
    sound = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1
    Kept.rows = []
    stream = SpeechStream(
        model, settings, normalizer, Alphabet(build_tokenizer("character", Lines(["abc "]))), Kept, 8000
    )
    stream.feed(sound), stream.finish()
    frames = torch.from_numpy(features_of(sound, settings)).unsqueeze(1)
    with torch.no_grad():
        chances, steps = model(frames, torch.tensor([len(frames)]))
    assert len(Kept.rows) == int(steps[0])
    np.testing.assert_allclose(np.stack(Kept.rows), chances[:, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 48_000])
def test_latency_is_what_a_stream_waits_for(rate):
    from unspool.data.audio import Resampler

    stated, own = Resampler.longest_wait(rate, 16_000), Resampler(rate, 16_000)
    ready = worst = 0
    for fed in range(5, 3 * rate, 5):
        worst = max(worst, fed / rate - ready / 16_000)
        ready += len(own.feed(np.zeros(5, np.float32)))
    assert stated - 0.001 <= worst <= stated + 5 / rate  # fed five at a time


def test_long_sound_is_cut_where_it_is_quietest():
    settings = FeatureSettings(sample_rate=1000)
    sound = np.ones(10_000, np.float32)
    for middle in (3500, 6600):
        sound[middle - 150 : middle + 150] = 0.0
    pieces = list(_cut(sound, settings, 4.0))
    assert sum(len(piece) for _, piece in pieces) == 10_000
    assert [begin for begin, _ in pieces] == pytest.approx([0.0, 3.5, 6.6], abs=0.06)
    assert all(len(piece) <= 4000 for _, piece in pieces)


def test_subtitles_have_cues_that_can_be_read():
    words = [Word("word", 0.5 * n, 0.5 * n + 0.4, 1.0) for n in range(12)]
    words.append(Word("late", 3661.5, 3662.0, 1.0))

    class Part:
        pass

    part = Part()
    part.words = words
    text = subtitles([part], "srt")
    assert text.startswith("1\n00:00:00,000 --> 00:00:03,900\nword word word word word word word word\n\n2\n")
    assert text.endswith("3\n01:01:01,500 --> 01:01:02,000\nlate\n\n")
    assert subtitles([part], "vtt").startswith("WEBVTT\n\n1\n00:00:00.000 --> ")
    assert PrefixBeam().size == 16


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_from_text_to_sound_to_text(tmp_path, capsys):
    script = Path(__file__).parents[2] / "examples" / "make_speech.py"
    subprocess.run([sys.executable, script, tmp_path / "corpus", "--train", "300"], check=True)
    lists = ["--train", tmp_path / "corpus/train.jsonl", "--dev", tmp_path / "corpus/dev.jsonl"]
    flags = ["--hidden-size", 128, "--num-layers", 2, "--epochs", 40, "--batch-seconds", 30, "--speeds", "0.9,1,1.1"]
    assert call("train", "speech", *lists, "--out", tmp_path / "m", *flags, "--json") == 0
    capsys.readouterr()
    assert call("evaluate", tmp_path / "m", "--data", tmp_path / "corpus/test.jsonl", "--json") == 0
    assert json.loads(capsys.readouterr().out)["word_error_rate"] < 0.1  # a voice that was never heard
