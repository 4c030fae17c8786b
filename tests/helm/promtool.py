"""Prometheus' own tool, on the rules of a rendered release: whether it takes them, and which alerts fire in a world."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.helm.release import Release

Rule = Mapping[str, Any]

needs_promtool: Final = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def rules(release: Release) -> list[Rule]:
    """Every rule of a release's PrometheusRule."""
    return [rule for group in release.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def alerts(release: Release) -> list[Rule]:
    return [rule for rule in rules(release) if "alert" in rule]


def write(release: Release, folder: Path) -> Path:
    """A release's rules as a file of Prometheus'."""
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump(release.one("PrometheusRule")["spec"]))
    return file


def check(file: Path) -> subprocess.CompletedProcess[str]:
    """Whether Prometheus would load a rule file: expressions, templates, names."""
    return _promtool("check", "rules", "--lint-fatal", str(file))


def difference(
    file: Path, series: Mapping[str, str], at: str, expected: Collection[Mapping[str, str]], step: str = "1m"
) -> str:
    """Evaluate a rule file over `series` every `step`; empty when exactly the `expected` alerts fire at that time.

    `series`: selector → values a minute, in promtool's notation. `expected`: alerts by some of their labels, the same
    ones for all. Source: https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/.
    """
    samples = [{"labels": _selector(labels), "value": 1} for labels in expected]
    names = sorted({name for labels in expected for name in labels} or {"alertname"})
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'group by ({", ".join(names)}) (ALERTS{{alertstate="firing"}})',
                "eval_time": at,
                "exp_samples": samples,
            }
        ],
    }
    asked = file.with_name("test.yaml")
    asked.write_text(yaml.safe_dump({"rule_files": [file.name], "evaluation_interval": step, "tests": [test]}))
    done = _promtool("test", "rules", str(asked))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _selector(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items() if value) + "}"


def _promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
