"""Files that a release wrote open for ever, and score as they did."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import padim
from padim.evaluation.compare import compare
from padim.evaluation.record import write_record
from padim.evaluation.run_folder import Results, read_run, write_results
from padim.model.file import load_state, save_state
from padim.model.pair import load_pair, save_pair

V1 = Path(__file__).parent / "kept/v1"


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_a_file_of_version_1_scores_as_it_did(name: str) -> None:
    with np.load(V1 / "scores.npz") as kept:
        found = padim.load(V1 / name).predict(list(kept["images"]))
        for i, prediction in enumerate(found):
            # Another processor may round the last bits of a product otherwise.
            np.testing.assert_allclose(prediction.anomaly_map, kept["anomaly_map"][i], rtol=1e-4)
            assert prediction.score == pytest.approx(kept["image_score"][i], rel=1e-5)
            np.testing.assert_allclose(prediction.level_scores, kept["level_scores"][i], rtol=1e-4)
            assert prediction.p_value == kept["p_value"][i]
            assert prediction.decision is not None
            assert prediction.decision.threshold.score == kept["threshold"]
            assert prediction.label == "anomalous"


def test_a_pair_of_version_1_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    state, moments = load_pair(V1 / "model.safetensors")
    save_pair(state, moments, tmp_path / "model.safetensors")
    for name in ("model.safetensors", "model.moments.safetensors"):
        assert (tmp_path / name).read_bytes() == (V1 / name).read_bytes()


def test_the_numbers_of_a_model_of_version_1_are_read_bit_for_bit(tmp_path: Path) -> None:
    state = load_state(V1 / "model.safetensors")
    save_state(state, tmp_path / "again.safetensors")
    with safe_open(V1 / "model.safetensors", framework="np") as file:
        for i, (mean, whitening) in enumerate(zip(state.mean, state.in_memory(), strict=True)):
            assert (file.get_tensor(f"levels/{i}/mean") == mean.numpy()).all()
            assert (file.get_tensor(f"levels/{i}/whitening") == whitening.numpy()).all()
        assert json.loads(file.metadata()["padim"])["count"] == state.count == 8


def within(new: Any, old: Any) -> Any:
    """What is new without the keys that there were not; a later release may have more metrics."""
    if isinstance(old, dict):
        return {key: within(new[key], value) for key, value in old.items()}
    if isinstance(old, list):
        return [within(*pair) for pair in zip(new, old, strict=True)]
    return new


def test_a_benchmark_of_version_1_is_read_and_written_again_as_it_was(tmp_path: Path) -> None:
    kept = V1 / "benchmark/first"
    results, records = read_run(kept)
    (record,) = records["carpet"]
    assert record.row.metrics == results.rows[0].metrics
    assert record.row.metrics["pixel_auroc"] == 0.9953224736798473
    assert [image.defect for image in record.images] == ["good", "good", "spot", "spot"]
    write_record(record, tmp_path)
    write_results(results, [record], tmp_path)
    for name in ("records/carpet.json", "results.json"):
        before = json.loads((kept / name).read_text())
        assert within(json.loads((tmp_path / name).read_text()), before) == before
    assert (tmp_path / "images.jsonl").read_text() == (kept / "images.jsonl").read_text()
    with np.load(kept / "records/carpet.npz") as before:
        assert set(record.resampled) == set(before)
        for name, drawn in before.items():
            np.testing.assert_array_equal(record.resampled[name], drawn)
    again = Results.of(results.settings, [record], ())
    assert again == results


def test_benchmarks_of_version_1_are_compared() -> None:
    found = compare(V1 / "benchmark/first", V1 / "benchmark/second")
    assert found.categories["carpet"]["pixel_auroc"].difference == pytest.approx(0.002735, abs=1e-6)
    assert found.all == found.categories["carpet"]
