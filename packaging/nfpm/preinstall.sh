#!/bin/sh
# Leaves a note for postinstall.sh: dpkg calls a package that was removed and comes back "configured before", as it does
# an upgrade, and only the first of them is to be started.
set -e

if [ "$1" = install ] && [ -d /run/systemd/system ]; then
  : >/run/jetwatch-comes-back
fi
