"""The Django application ``pushd.django``, which provides ``manage.py runpushd``."""

from __future__ import annotations

from django.apps import AppConfig


class PushdConfig(AppConfig):
    """Labels the application ``pushd``; by default Django would label it ``django``."""

    name = "pushd.django"
    label = "pushd"
