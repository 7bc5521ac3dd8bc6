"""What ``manage.py`` finds here when ``pushd`` is one of INSTALLED_APPS."""
