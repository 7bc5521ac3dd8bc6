"""Options: the command line, the environment, the configuration file, and the settings."""

from pushd.options.command_line import Options

__all__ = ["Options"]
