"""The Django application pushd.django."""

from __future__ import annotations

from django.apps import apps
from django.conf import settings
from twisted.trial.unittest import SynchronousTestCase

from tests.support import django_site  # noqa: F401 - configures Django


class PushdConfigTests(SynchronousTestCase):
    """``INSTALLED_APPS = ["pushd.django"]``."""

    def test_label(self) -> None:
        """The application's label is not ``django``, the name of its folder."""
        self.assertIn("pushd.django", settings.INSTALLED_APPS)
        self.assertEqual(apps.get_app_config("pushd").name, "pushd.django")
