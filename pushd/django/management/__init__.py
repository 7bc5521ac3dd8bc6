"""Commands that ``manage.py`` offers if INSTALLED_APPS names ``pushd.django``."""
