"""Policies start from the settings and change one at a time."""

from __future__ import annotations

import pytest

from headrace.config import ModelSettings
from headrace.control.policy import Policies
from headrace.errors import InvalidInference, StartupError


def published(policies: Policies) -> dict[str, str]:
    return {policy.model: policy.primary_version for policy in policies.published()}


def test_the_settings_are_published() -> None:
    policies = Policies({"m": ModelSettings(primary_version="2"), "n": ModelSettings()})

    assert published(policies) == {"m": "2", "n": ""}


def test_a_new_primary_raises_the_version_once() -> None:
    policies = Policies({"m": ModelSettings(primary_version="1")})
    before = policies.version

    assert policies.set_primary("m", "2") is True
    assert policies.set_primary("m", "2") is False
    assert published(policies) == {"m": "2"}
    assert policies.version == before + 1


def test_a_model_without_settings_may_get_a_primary() -> None:
    policies = Policies({})
    policies.set_primary("m", "3")

    assert published(policies) == {"m": "3"}


def test_text_that_is_no_version_is_refused() -> None:
    with pytest.raises(InvalidInference, match="latest"):
        Policies({}).set_primary("m", "latest")
    with pytest.raises(StartupError, match=r"models\.m\.primary_version"):
        Policies({"m": ModelSettings(primary_version="latest")})
