#!/bin/sh
# Removal keeps state and configuration; `apt purge` removes the state and the logs. /etc/jetwatch goes if it is empty:
# what lies there was written by a person.
set -e

case "$1" in
  remove | 0)
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
    ;;
  purge)
    rm -rf /var/lib/jetwatch /var/lib/jetwatch-instances /var/log/jetwatch
    rmdir /etc/jetwatch 2>/dev/null || true
    if command -v deb-systemd-helper >/dev/null; then
      deb-systemd-helper purge jetwatch.service >/dev/null || true
    fi
    ;;
esac
