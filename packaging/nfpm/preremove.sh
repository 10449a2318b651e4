#!/bin/sh
# deb: remove, upgrade, …; rpm: 0 removal, 1 upgrade. Plays that run are left to their end.
set -e

case "$1" in
  remove | 0)
    if [ -d /run/systemd/system ]; then
      systemctl stop jetwatch.service 'jetwatch@*.service' || true
    fi
    if [ "$1" = 0 ] && command -v systemctl >/dev/null; then
      systemctl disable --no-reload jetwatch.service >/dev/null 2>&1 || true
    fi
    ;;
  1) exit 0 ;;
esac
find /usr/lib/jetwatch/site -type d -name __pycache__ -prune -exec rm -rf {} +
