# Runs in the guest, from its unit: lays the tree and the packages out as the tests expect them, then runs pytest.
# /host is the run's directory on the host; what the guest has to say goes there, and to the console.
exec </dev/null
set -eu
. /host/settings
mkdir -p /lib/modules /tree /venv/bin /venv/packages
mount -t hostfs -o "ro,$PACKAGES" none /venv/packages
mount -t hostfs -o "ro,$MODULES" none /lib/modules
cp -a /host/tree/. /tree
ip link set lo up
# The route that a resolver of names needs to fail at once.
echo "nameserver 127.0.0.1" >/etc/resolv.conf

ln -s /usr/bin/python3 /venv/bin/python
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >/venv/pyvenv.cfg
site=$(/venv/bin/python -c 'import site; print(site.getsitepackages()[0])')
mkdir -p "$site"
printf '/venv/packages\n/tree\n' >"$site/guest.pth"
printf '#!/venv/bin/python\nimport sys\nfrom falcon_agent.cli import main\nsys.exit(main())\n' >/venv/bin/falcon-agent
chmod +x /venv/bin/falcon-agent

# What other kernels have built in, and is here loaded only after some tests would have needed it.
modprobe -a ipv6 tun

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONDONTWRITEBYTECODE=1
cd /tree
echo "$BEGIN"
code=0
/venv/bin/python -m pytest -vv -p no:cacheprovider \
  --tb=short --color=no --durations=25 --durations-min=1 -o faulthandler_timeout=120 --junitxml=/host/report.xml @/host/arguments || code=$?
echo "$code" >/host/exit-code
sync
echo "$END"
