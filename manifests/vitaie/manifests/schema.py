"""The JSON Schemas in ``manifests/schema/``, made from the models, so that there is one source.

    python -m vitaie.manifests.schema          # in a checkout: writes manifests/schema/
    python -m vitaie.manifests.schema FOLDER

A schema says less than its model: what fields say of each other, digests, duplicate keys and
paths that differ in case are for a reader to judge (``docs/bundle-format.md``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from vitaie.manifests import outputs
from vitaie.manifests.card import CardFile
from vitaie.manifests.manifest import Manifest

MODELS: dict[str, type[BaseModel]] = {
    "manifest": Manifest,
    "card": CardFile,
    "output-error": outputs.ErrorOutput,
    "output-info": outputs.InfoOutput,
    "output-classify": outputs.ClassifyOutput,
    "output-preprocess": outputs.PreprocessOutput,
    "output-verify": outputs.VerifyOutput,
    "output-eval": outputs.EvalOutput,
    "output-bench": outputs.BenchOutput,
    "output-report": outputs.ReportOutput,
    "output-variants": outputs.VariantsOutput,
    "output-checkpoint": outputs.CheckpointOutput,
    "output-bundle": outputs.BundleOutput,
    "output-analyze": outputs.AnalyzeOutput,
    "output-compile": outputs.CompileOutput,
    "output-attach": outputs.AttachOutput,
    "output-gate": outputs.GateOutput,
    "report-refused": outputs.RefusalReport,
    "output-audit": outputs.AuditOutput,
    "output-doctor": outputs.DoctorOutput,
}
"""Each schema's file name, without ``.json``, and the model it is made from."""

FOLDER = Path(__file__).parents[2] / "schema"
"""Where the committed schemas lie in a checkout."""


class _WithoutFieldTitles(GenerateJsonSchema):
    """pydantic's generator, less the titles it makes of fields' names, which say nothing new."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Never."""
        return False


def schema_text(name: str) -> str:
    """Return the JSON Schema (draft 2020-12) of one of ``MODELS``, as its file holds it."""
    schema = MODELS[name].model_json_schema(schema_generator=_WithoutFieldTitles)
    document = {"$schema": GenerateJsonSchema.schema_dialect, **schema}
    return json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str]) -> None:
    """Write every schema into the folder given, or into the checkout's."""
    folder = Path(arguments[0]) if arguments else FOLDER
    for name in MODELS:
        (folder / f"{name}.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
