"""The Django application ``pushd.django``, which brings ``manage.py runpushd``."""

from __future__ import annotations

from django.apps import AppConfig


class PushdConfig(AppConfig):
    """Names the application ``pushd``: Django would call it ``django``, after the folder."""

    name = "pushd.django"
    label = "pushd"
