"""The formats that can be imported, by the name of their command."""

from __future__ import annotations

from cuecard.evals.interop import inspect_logs, lm_eval, lmms, vlmevalkit
from cuecard.evals.interop.replies import FileFormat

FORMATS = {
    "vlmevalkit": FileFormat(
        "VLMEvalKit's prediction files: MODEL_DATASET.xlsx, .tsv or .json.", vlmevalkit.read, vlmevalkit.model
    ),
    "lmms-eval": FileFormat(
        "lmms-eval's sample logs: DATETIME_samples_TASK.jsonl, written with --log_samples.", lmms.read, lmms.model
    ),
    "lm-eval": FileFormat(
        "lm-evaluation-harness's sample logs: samples_TASK_DATETIME.jsonl, written with --log_samples.",
        lm_eval.read,
        lmms.model,
    ),
    "inspect": FileFormat("inspect_ai's logs: .eval or .json.", inspect_logs.read, inspect_logs.model),
}
