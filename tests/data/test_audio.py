"""Sound and its features: the same bits however it is cut, and a name for every file that is not what it seems."""

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile", reason="the extra speech is not installed")

from unspool.data.audio import Resampler, probe, raw_samples, read_audio, resample  # noqa: E402
from unspool.errors import DataError  # noqa: E402
from unspool.tasks.speech.features import FeatureSettings, Featurizer, add_deltas, features_of  # noqa: E402


def tone(seconds=1.0, rate=16_000, pitch=440.0):
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def pieces(samples, seed):
    chance, at = np.random.default_rng(seed), 0
    while at < len(samples):
        size = int(chance.integers(0, 700))
        yield samples[at : at + size]
        at += size


@pytest.mark.parametrize("rates", [(8000, 16_000), (44_100, 16_000), (16_000, 16_000)])
def test_resampling_in_pieces_gives_the_same_bits(rates):
    sound = tone(rate=rates[0]) + np.random.default_rng(0).normal(0, 0.01, rates[0]).astype(np.float32)
    whole = resample(sound, *rates)
    for seed in range(3):
        resampler = Resampler(*rates)
        parts = [resampler.feed(part) for part in pieces(sound, seed)]
        assert np.array_equal(np.concatenate([*parts, resampler.finish()]), whole)
    assert abs(len(whole) - rates[1]) <= 1
    middle = slice(rates[1] // 4, rates[1] // 2)
    assert np.abs(whole - tone(rate=rates[1])[: len(whole)])[middle].max() < 0.06


@pytest.mark.parametrize("features", ["fbank", "mfcc"])
@pytest.mark.parametrize("deltas", [0, 1, 2])
def test_features_in_pieces_are_the_same_bits(features, deltas):
    settings = FeatureSettings(features=features, deltas=deltas)
    sound = np.random.default_rng(1).normal(0, 0.1, 9000).astype(np.float32)
    whole = features_of(sound, settings)
    assert whole.shape == (1 + (9000 - 400) // 160, (40 if features == "fbank" else 13) * (deltas + 1))
    for seed in range(3):
        featurizer = Featurizer(settings)
        parts = [featurizer.feed(part) for part in pieces(sound, seed)]
        assert np.array_equal(np.concatenate([*parts, featurizer.finish()]), whole)


def test_the_filter_at_a_tones_pitch_is_the_loudest():
    settings = FeatureSettings(num_filters=40)
    edges = np.linspace(*(1127 * np.log1p(hertz / 700) for hertz in (20.0, 8000.0)), 42)  # Kaldi's mel scale
    for pitch in (300.0, 1000.0, 4000.0):
        loudest = features_of(tone(pitch=pitch), settings).mean(0).argmax()
        centre = 700 * np.expm1(edges[loudest + 1] / 1127)
        assert abs(centre - pitch) / pitch < 0.1


@pytest.mark.parametrize("length", [0, 1, 2, 5, 9])
def test_deltas_are_regressions_over_five_frames(length):
    frames = np.random.default_rng(2).normal(size=(length, 3)).astype(np.float32)
    found = add_deltas(frames, 2)
    assert found.shape == (length, 9)

    def slope(rows, t):
        at = [rows[min(max(t + n, 0), length - 1)] for n in (-2, -1, 0, 1, 2)]
        return (at[3] - at[1] + 2 * (at[4] - at[0])) / 10

    once = np.array([slope(frames, t) for t in range(length)]).reshape(length, 3)
    twice = np.array([slope(once, t) for t in range(length)]).reshape(length, 3)
    np.testing.assert_allclose(found, np.concatenate([frames, once, twice], 1), atol=1e-6)


def test_channels_are_averaged_and_parts_are_cut_out(tmp_path):
    left, right = tone(), tone(pitch=100.0)
    soundfile.write(tmp_path / "two.flac", np.stack([left, right], 1), 16_000, subtype="PCM_24")
    found = read_audio(tmp_path / "two.flac", 16_000)
    np.testing.assert_allclose(found, (left + right) / 2, atol=1e-6)
    assert np.array_equal(read_audio(tmp_path / "two.flac", 16_000, 0.25, 0.5), found[4000:8000])
    assert probe(tmp_path / "two.flac") == (16_000, 2, 1.0)


def test_raw_bytes_come_in_any_pieces():
    samples = (tone(0.01) * 32767).astype("<i2")
    whole = samples.tobytes()
    parts = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    np.testing.assert_array_equal(np.concatenate(list(raw_samples(iter(parts)))), samples.astype(np.float32) / 32768)


def test_bad_files_are_refused_by_name(tmp_path):
    def refused(name, words):
        with pytest.raises(DataError, match=rf"{name}.*{words}"):
            read_audio(tmp_path / name, 16_000)

    refused("missing.wav", "no such file")
    (tmp_path / "empty.wav").write_bytes(b"")
    refused("empty.wav", "no sound file")
    (tmp_path / "text.flac").write_text("this is no sound" * 100)
    refused("text.flac", "no sound file")
    for kind in ("wav", "flac"):
        soundfile.write(tmp_path / f"cut.{kind}", tone(), 16_000)
        whole = (tmp_path / f"cut.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) * 2 // 3])
        refused(f"cut.{kind}", "cut off")
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16_000)
    refused("none.wav", "holds no samples")
    sound = tone()
    sound[8000] = np.nan
    soundfile.write(tmp_path / "nan.wav", sound, 16_000, subtype="FLOAT")
    refused("nan.wav", r"no numbers or absurd, the first at 0\.500 s")
    sound[8000] = 3e29
    soundfile.write(tmp_path / "nan.wav", sound, 16_000, subtype="FLOAT")
    refused("nan.wav", r"no numbers or absurd, the first at 0\.500 s")
    soundfile.write(tmp_path / "whole.wav", tone(), 16_000)
    with pytest.raises(DataError, match=r"whole\.wav: ends at .* or offset and duration lie beyond it"):
        read_audio(tmp_path / "whole.wav", 16_000, 5.0, 6.0)
