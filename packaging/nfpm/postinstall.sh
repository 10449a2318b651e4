#!/bin/sh
# deb: configure [OLD VERSION]; rpm: 1 first install, 2 upgrade. An agent is restarted, its plays go on meanwhile.
set -e

case "$1" in
  configure) previous=$2 ;;
  1) previous= ;;
  2) previous=some ;;
  *) exit 0 ;;
esac

# Compiled once, for the Python of this machine, and removed again before removal.
/usr/lib/jetwatch/bin/python -I -m compileall -q -j 0 /usr/lib/jetwatch/site || true

if [ -z "$previous" ]; then
  # Without /etc/jetwatch/watch.yml the unit's condition keeps it from starting.
  if command -v deb-systemd-helper >/dev/null; then
    deb-systemd-helper enable jetwatch.service >/dev/null || true
  elif command -v systemctl >/dev/null; then
    systemctl preset jetwatch.service >/dev/null 2>&1 || true
  fi
fi

if [ -e /run/jetwatch-comes-back ]; then
  rm -f /run/jetwatch-comes-back
  previous=
fi

if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
  if [ -n "$previous" ]; then
    systemctl try-restart jetwatch.service 'jetwatch@*.service' || true
  elif systemctl is-enabled --quiet jetwatch.service; then
    systemctl start jetwatch.service || true
  fi
fi
