"""The Django application as Django sees it."""

from __future__ import annotations

from django.apps import apps
from twisted.trial.unittest import SynchronousTestCase

from tests import django_site


class PushdConfigTests(SynchronousTestCase):
    """``INSTALLED_APPS = ["pushd.django"]``."""

    def test_label(self) -> None:
        """The application has a label of its own, not that of its folder, ``django``."""
        self.assertIn("pushd.django", django_site.settings.INSTALLED_APPS)
        self.assertEqual(apps.get_app_config("pushd").name, "pushd.django")
