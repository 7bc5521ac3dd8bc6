"""The application for twistd -ny pushd.tac.

A .tac file takes no arguments. The options of "twistd pushd --help" are read from an environment
variable: PUSHD_OPTIONS="--listen tcp:9000 --control none" twistd -ny pushd.tac
"""

import os
import shlex

from twisted.application.service import Application

from pushd.options import Options
from pushd.service import makeService

options = Options()
options.parseOptions(shlex.split(os.environ.get("PUSHD_OPTIONS", "")))

application = Application("pushd")
makeService(options).setServiceParent(application)
