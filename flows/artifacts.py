"""What Prefect's pages show of a run: its law, numbers, rivals and picture, and how far training is.

Prefect renders Markdown, tables and pictures, but no formulas: equations are shown as code, and the
report has them typeset. Nothing here can fail a run: what Prefect refuses is told, and left out.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import TaskRunContext

from flows.deployed import this_flow_run
from sciml_discover.base import Progress, Watch
from sciml_discover.errors import InputError
from sciml_discover.report.numbers import interval, number, percent, remark, with_error
from sciml_discover.report.picture import picture
from sciml_discover.result import DiscoveryResult, ParameterEstimate

SECONDS_BETWEEN_UPDATES = 2.0
"""Of the progress: one takes some hundredths of a second."""


def publish(result: DiscoveryResult, folder: Path, watch: Watch) -> None:
    """Make the artifacts of the flow run that this is called from.

    Args:
        result: of the run.
        folder: of the run.
        watch: who is told if Prefect refuses them.
    """
    run = this_flow_run()
    if run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            for artifact in artifacts_of(result, folder):
                client.create_artifact(artifact.model_copy(update={"flow_run_id": run.id}))
    except Exception as error:
        watch(Progress("report", f"not all is shown in Prefect ({type(error).__name__}: {error})"))


def artifacts_of(result: DiscoveryResult, folder: Path) -> Iterator[ArtifactCreate]:
    """Yield what is to be shown of a run. Keys are those of the case, so that Prefect lists its history."""
    case = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in result.case.lower())

    def artifact(name: str, kind: str, content: Any, description: str) -> ArtifactCreate:
        return ArtifactCreate(key=f"{case}-{name}", type=kind, data=content, description=description)

    report = (folder / "report.html").resolve().as_uri()
    yield artifact("law", "markdown", law_markdown(result, report), f"{result.title}: {result.status}")
    yield artifact("numbers", "table", json.dumps(number_rows(result)), "Numbers of the law, with errors")
    yield artifact("laws", "table", json.dumps(law_rows(result)), "The choice, its rivals, and the front")
    try:
        drawn = base64.b64encode(picture(folder).encode()).decode()
    except InputError:
        return  # a report without that figure: the case has no samples
    yield artifact("picture", "image", f"data:image/svg+xml;base64,{drawn}", "The law over the data")


def law_markdown(result: DiscoveryResult, report: str) -> str:
    """Return the equations, the verdict and its reasons."""
    equations = "\n".join(f"d {state}/dt = {text}" for state, text in result.equations.items())
    holes = "\n".join(f"{hole} = {law.expression}" for hole, law in result.missing.items())
    reasons = "\n".join(
        f"- {'passed' if reason.passed else '**failed**'}: {reason.message}" for reason in result.reasons
    )
    return (
        f"# {result.status}\n\n```\n{equations}\n```\n\nFound:\n\n```\n{holes}\n```\n\n"
        f"{reasons}\n\nThe report, for a browser on that machine: [{report}]({report})\n"
    )


def number_rows(result: DiscoveryResult) -> list[dict[str, str]]:
    """Return a row for each coefficient, each number inside a term, and each parameter."""
    rows = []
    for hole, law in result.missing.items():
        for term in law.terms:
            rows.append(
                {
                    "where": hole,
                    "number": term.term,
                    "estimate": with_error(term.coefficient, term.stderr),
                    "95 % interval": interval(term.interval95),
                    "unit": term.unit or "",
                    "inclusion": percent(term.inclusion),
                    "note": remark(identifiable=term.stderr is not None, snapped=term.snapped),
                }
            )
            for name, inner in term.parameters.items():
                rows.append(_parameter_row(f"{hole}: {term.term}", name, inner))
    return rows + [_parameter_row("known physics", *item) for item in result.parameters.items()]


def _parameter_row(where: str, name: str, found: ParameterEstimate) -> dict[str, str]:
    return {
        "where": where,
        "number": name,
        "estimate": with_error(found.value, found.stderr),
        "95 % interval": "" if found.fixed else interval(found.interval95),
        "unit": found.unit or "",
        "inclusion": "",
        "note": remark(found.fixed, found.identifiable, found.snapped),
    }


def law_rows(result: DiscoveryResult) -> list[dict[str, str]]:
    """Return a row for the choice and each alternative: misfit against terms, the front of Pareto."""
    rows = []
    if (choice := result.selection) is not None:
        law = {hole: found.expression for hole, found in result.missing.items()}
        holdout = result.metrics.holdout
        error = holdout.standardised if holdout else None
        rows.append(_law_row("choice", law, choice.complexity, choice.chi_square, 0.0, error))
    for other in result.alternatives:
        role = "rival" if other.rival else "front"
        figures = other.complexity, other.chi_square, other.delta, other.holdout_error
        rows.append(_law_row(role, other.missing, *figures))
    return rows


def _law_row(
    role: str,
    law: Mapping[str, str],
    terms: int,
    chi_square: float | None,
    behind: float | None,
    holdout: float | None,
) -> dict[str, str]:
    return {
        "role": role,
        "terms": str(terms),
        "chi-square": number(chi_square),
        "behind": number(behind),
        "hold-out": "" if holdout is None else number(holdout),
        "law": "; ".join(f"{hole} = {text}" for hole, text in law.items()),
    }


def watched(watch: Watch, clock: Callable[[], float] = time.monotonic) -> Watch:
    """Return a watch that also shows in Prefect how far a stage is, once that takes longer.

    Args:
        watch: who is told of the progress anyway.
        clock: in seconds.
    """
    shown: dict[UUID, tuple[UUID | None, float]] = {}

    def show(event: Progress) -> None:
        watch(event)
        context = TaskRunContext.get()
        if context is None or not event.total:
            return
        task, now = context.task_run.id, clock()
        artifact, last = shown.setdefault(task, (None, now))
        if now - last < SECONDS_BETWEEN_UPDATES:
            return
        shown[task] = (_shown(artifact, event, context), now)

    return show


def _shown(artifact: UUID | None, event: Progress, context: TaskRunContext) -> UUID | None:
    """Make or change the artifact of a task's progress, and return its id."""
    percent = min(100.0 * event.step / event.total, 100.0)
    try:
        with get_client(sync_client=True) as client:
            if artifact is None:
                made = client.create_artifact(
                    ArtifactCreate(
                        type="progress",
                        key=f"{event.stage}-progress",
                        data=percent,
                        description=event.message,
                        flow_run_id=context.task_run.flow_run_id,
                        task_run_id=context.task_run.id,
                    )
                )
                return made.id
            client.update_artifact(artifact, ArtifactUpdate(data=percent, description=event.message))
    except Exception:
        return None  # the bars of the command line show it as well
    return artifact
