#!/usr/bin/env bash
# Sets this tree up: Debian packages for the real parts, then .venv. Quick when nothing changed.
set -euo pipefail
cd "$(dirname "$0")"

packages=(docker.io containerd containernetworking-plugins podman lxc systemd-container debootstrap e2fsprogs
  user-mode-linux busybox-static iproute2 iptables procps faketime groff-base strace rpm rpmlint lintian)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done

# The distribution's before any other: the packages run on it, and it is compiled with more care than most that are built by hand.
python=
for candidate in /usr/bin/python3 "$(command -v python3 || true)"; do
  if [ -x "$candidate" ] && "$candidate" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  missing+=(python3 python3-venv)
  python=/usr/bin/python3
fi

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: cannot install ${missing[*]}: needs root and apt-get; install them and try again" >&2
    exit 1
  fi
  echo "setup: installing Debian packages: ${missing[*]}"
  log=$(mktemp)
  # No service is to start by itself: the tests start a Docker engine of their own and stop it.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy" "$log"' EXIT
  fi
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "setup: cannot install ${missing[*]}: apt-get failed (above)" >&2
    exit 1
  fi
fi

stamp=.venv/.setup-stamp
wanted=$(cat pyproject.toml requirements-dev.lock setup.sh | sha256sum)
# As packages have it: a program that is compiled anew at each start takes twice as long to start.
compiled() { .venv/bin/python -m compileall -q falcon_agent; }
if [ -x .venv/bin/falcon-agent ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  compiled
  exit 0
fi
echo "setup: making .venv"
base='import sys; print(sys.base_prefix, sys.version)'
[ "$(.venv/bin/python -c "$base" 2>/dev/null)" = "$("$python" -c "$base")" ] || "$python" -m venv --clear .venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
.venv/bin/python -m pip install -q --require-hashes -r requirements-dev.lock
.venv/bin/python -m pip install -q --no-deps --no-build-isolation -e .
compiled
printf '%s\n' "$wanted" >"$stamp"
echo "setup: done; the program is .venv/bin/falcon-agent"
