import os
from pathlib import Path

import mlflow
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trees import make_record, make_settings

from padim.errors import PadimError
from padim.evaluation.run_folder import Results
from padim.evaluation.tracking import send_to_mlflow, write_tensorboard

VALUES = {"image_auroc": 0.9, "aupro_30": 0.5}


def results(*names: str) -> Results:
    records = [make_record(name, metrics=VALUES) for name in names]
    return Results.of(make_settings(), records, ())


RESULTS = results("bolt")
EXPECTED = {
    ("bolt", "image_auroc"): 0.9,
    ("bolt", "aupro_30"): 0.5,
    ("mean_all", "image_auroc"): 0.9,
    ("mean_all", "aupro_30"): 0.5,
}


def test_mlflow_gets_settings_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    uri = (tmp_path / "runs").as_uri()
    send_to_mlflow(RESULTS, uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("padim")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["backbone"] == "resnet18"
    assert run.data.params["version.numpy"] == "2.0"
    assert run.data.metrics == {f"{name}/{metric}": v for (name, metric), v in EXPECTED.items()}


def test_mlflow_gets_names_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "runs").as_uri()
    names = "bolt (M8)", os.fsdecode(b"caf\xe9:|")
    send_to_mlflow(results(*names), uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("padim")
    (run,) = client.search_runs([experiment.experiment_id])
    assert {name.partition("/")[0] for name in run.data.metrics} == {
        "bolt _M8_",
        "caf___",
        "mean_all",
    }


def test_an_mlflow_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    with pytest.raises(PadimError, match="did not take the results"):
        send_to_mlflow(RESULTS, "nonsense://nowhere")


def test_tensorboard_gets_every_metric(tmp_path: Path) -> None:
    write_tensorboard(RESULTS, tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert found == pytest.approx({f"{metric}/{name}": v for (name, metric), v in EXPECTED.items()})


def test_tensorboard_gets_names_that_are_no_text(tmp_path: Path) -> None:
    write_tensorboard(results(os.fsdecode(b"caf\xe9")), tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert len(events.Tags()["scalars"]) == 2 + 2


def test_a_folder_that_tensorboard_cannot_have_is_said(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(PadimError, match="did not take the results"):
        write_tensorboard(RESULTS, path)
