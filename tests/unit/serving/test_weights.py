"""A model on disk is served whole or not at all: whatever is wrong with it is one line that names the file."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from headrace.errors import StartupError
from headrace.serving import weights
from headrace.serving.runner import Runner
from headrace.serving.warmup import warm_up
from headrace_models import spec as disk

REPOSITORY = Path(__file__).parents[3] / "benchmarks" / "repository"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY / "w2-ragged", tmp_path / "w2-ragged")) / "1"


class Bomb:
    """Unpickling it fails the test."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("something was unpickled",)


def respell(directory: Path, **changes: object) -> None:
    path = directory / "spec.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def cut_weights_but_renew_the_digest(directory: Path) -> None:
    cut(directory / "weights.safetensors")
    respell(directory, digest=disk.digest(directory / "weights.safetensors"))


def pickled_weights(directory: Path) -> None:
    (directory / "weights.safetensors").write_bytes(pickle.dumps({"project.weight": Bomb()}))
    respell(directory, digest=disk.digest(directory / "weights.safetensors"))


def pickled_golden(directory: Path) -> None:
    np.savez(directory / "golden.npz", **{"input.events": np.array([Bomb()])})


def other_golden(directory: Path) -> None:
    with np.load(directory / "golden.npz") as arrays:
        np.savez(directory / "golden.npz", **{**arrays, "output.score": arrays["output.score"] + 1})


def test_every_version_below_the_directories_is_found() -> None:
    found = weights.discover([REPOSITORY, weights.shipped_models()])

    assert {f"{model.name}/{model.version}" for model in found} >= {"w1-encoder/1", "w2-ragged/1", "fraud-tx/1"}


def test_a_version_that_is_there_twice_is_refused(directory: Path) -> None:
    with pytest.raises(StartupError, match=r"w2-ragged/1 is in .* already"):
        weights.discover([REPOSITORY, directory.parents[1]])


def test_only_the_models_asked_for_are_served_and_the_others_are_not_even_read(directory: Path) -> None:
    other = Path(shutil.copytree(REPOSITORY / "w1-encoder", directory.parents[1] / "w1-encoder")) / "1"
    cut(other / "weights.safetensors")

    found = weights.discover([directory.parents[1], weights.shipped_models()], ["w2-ragged"])

    assert [model.name for model in found] == ["w2-ragged"]


def test_an_unknown_model_asked_for_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        StartupError, match=r"no model 'w3' \(there is acceptance, fraud-gru, fraud-tx, w1-encoder, w2-ragged\)"
    ):
        weights.discover([REPOSITORY, weights.shipped_models()], ["w2-ragged", "w3"])


def test_a_version_that_is_a_link_into_a_store_keeps_its_name(directory: Path, tmp_path: Path) -> None:
    store = directory.rename(tmp_path / "af03c1")
    directory.symlink_to(store)

    assert weights.read(directory).directory == directory


@pytest.mark.parametrize("below", ["nowhere", "."])
def test_a_directory_without_models_is_refused(tmp_path: Path, below: str) -> None:
    with pytest.raises(StartupError, match=r"no such directory|no model"):
        weights.discover([tmp_path / below])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda d: (d / "spec.yaml").unlink(), "spec.yaml"),
        (lambda d: (d / "spec.yaml").write_text("name: [w2"), "spec.yaml"),
        (lambda d: respell(d, nonsense=1), "nonsense"),
        (lambda d: (d / "weights.safetensors").unlink(), "weights.safetensors"),
        (lambda d: cut(d / "weights.safetensors"), "weights.safetensors: digest is"),
        (lambda d: respell(d, digest="sha256:0"), "but spec.yaml says sha256:0"),
    ],
    ids=["no spec", "torn spec", "unknown key", "no weights", "truncated weights", "digest"],
)
def test_a_damaged_directory_is_refused_before_anything_is_loaded(
    directory: Path, spoil: Callable[[Path], object], named: str
) -> None:
    spoil(directory)

    with pytest.raises(StartupError, match=named) as refused:
        weights.read(directory)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "spoil",
    [
        cut_weights_but_renew_the_digest,
        pickled_weights,
        pickled_golden,
        other_golden,
        lambda d: respell(d, factory="model.py:nothing"),
        lambda d: (d / "golden.npz").unlink(),
        lambda d: cut(d / "golden.npz"),
        lambda d: (d / "model.py").write_text("def build(config): raise KeyError('of its own')"),
    ],
    ids=["truncated", "pickled weights", "pickled golden", "golden", "factory", "no golden", "torn golden", "raises"],
)
def test_a_model_that_does_not_load_or_answer_as_it_did_is_refused_in_one_line(
    directory: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(directory)
    model = weights.read(directory)

    with pytest.raises(StartupError) as refused:
        weights.load(model, "cpu")
    assert "\n" not in str(refused.value)


def test_a_warm_up_shape_the_model_does_not_take_is_refused(directory: Path) -> None:
    axes = [{"name": "events", "cap": 200}]
    respell(directory, axes=axes, warmup=[{"rows": 1, "lengths": {"events": 129}}])  # beyond the largest bucket
    model = weights.read(directory)
    runner = Runner(weights.load(model, "cpu"), model.spec, "cpu")

    with pytest.raises(StartupError, match="warm-up with 1 rows failed") as refused:
        warm_up(runner, model.spec)
    assert "\n" not in str(refused.value)


def test_the_wire_spec_says_what_the_file_says() -> None:
    model = weights.read(weights.shipped_models() / "fraud-tx" / "1")

    wire = weights.wire_spec(model)

    assert (wire.name, wire.version, wire.digest) == ("fraud-tx", "1", model.spec.digest)
    assert [axis.name for axis in wire.axes] == ["card", "merchant"]
    by_name = {tensor.name: tensor for tensor in wire.inputs}
    assert by_name["card_amount"].bounded_below
    assert by_name["card_amount"].finite
    assert by_name["card_ts"].ordered
    assert by_name["card_codes"].dims[0] == -1
    assert by_name["card_codes"].axis == "card"
    assert not by_name["merchant_stats"].axis


def test_a_signal_is_on_the_wire_only_where_the_file_has_one(directory: Path) -> None:
    shipped = weights.wire_spec(weights.read(weights.shipped_models() / "fraud-tx" / "1"))

    assert (shipped.signal.name, len(shipped.signal.calibration_version)) == ("fraud", 12)
    assert not weights.wire_spec(weights.read(directory)).HasField("signal")
