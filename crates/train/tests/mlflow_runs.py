"""Prints what MLflow's own client finds of the runs of an experiment, as JSON."""

import json
import sys

from mlflow import MlflowClient

client = MlflowClient(sys.argv[1])
experiment = client.get_experiment_by_name(sys.argv[2])
runs = []
for run in client.search_runs([experiment.experiment_id]):
    history = {key: [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics}
    package = client.download_artifacts(run.info.run_id, "best.espalier")
    runs.append({
        "id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "metrics": history,
        "note": run.data.tags.get("mlflow.note.content"),
        "artifacts": [f.path for f in client.list_artifacts(run.info.run_id)],
        "package": list(open(package, "rb").read()),
    })
print(json.dumps(runs))
