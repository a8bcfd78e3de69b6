"""All that a run has found so far, and the files that tell it, written anew after each scenario: a run is long."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.macro import document, report
from benchmarks.macro.machine import Machine
from benchmarks.macro.measure import Result
from benchmarks.macro.report import Section
from benchmarks.macro.scenario import Scenario
from pymesh.errors import MeshError


@dataclass(slots=True)
class Outcome:
    """By scenario: what was measured, or why nothing could be.

    Attributes:
        programs: the versions of what ran, by name.
    """

    machine: Machine
    programs: dict[str, str]
    results: list[Result] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """A scenario was measured."""
        self.results.append(result)
        self.sections.append(report.result_section(result))

    def fail(self, scenario: Scenario, error: MeshError) -> None:
        """A scenario could not be measured."""
        self.failed.append(scenario.name)
        self.sections.append(Section(scenario.name, [scenario.summary, f"not measured: {error}"], [], []))

    @property
    def head(self) -> Section:
        """Where the figures come from."""
        return report.machine_section(self.machine, self.programs)

    @property
    def summary(self) -> Section:
        """What was wanted, and what was found."""
        return report.summary_section(self.results, self.failed)

    @property
    def sound(self) -> bool:
        """Whether everything could be measured, without an error."""
        return not self.failed and not any(result.errors for result in self.results)

    def write(self, json_file: Path | None, page: Path | None) -> None:
        """For programs and as Markdown, where wanted.

        Raises:
            MeshError: a file cannot be written.
        """
        if json_file is not None:
            made = document.document(self.machine, self.programs, self.results)
            _write(json_file, json.dumps(made, indent=2, ensure_ascii=False))
        if page is not None:
            sections = [self.head, self.summary, *self.sections]
            _write(page, "\n\n".join("\n".join(report.markdown(section)) for section in sections))


def _write(file: Path, content: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise MeshError(f"cannot write {file}: {error.strerror}") from error
