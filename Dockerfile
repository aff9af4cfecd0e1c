# docker build -t falcon-agent:0.1.0 .        docs/kubernetes.md says how to run it, and what each mount and privilege is for.
#
# Any image with Python 3.11 or later, its venv module and a shell does, such as a copy in your own registry.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# pip reads these two: a mirror of the package index; or, with 1, nothing but what is in wheels/, for a host without
# a network, after `pip download --require-hashes --only-binary=:all: -r requirements.lock -d wheels` on one that has it.
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
RUN python3 -m venv /opt/falcon-agent
# The brackets make wheels/ optional.
COPY requirements.lock wheel[s] /build/wheels/
RUN /opt/falcon-agent/bin/python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile \
      --require-hashes --only-binary=:all: --find-links /build/wheels -r /build/wheels/requirements.lock \
 && /opt/falcon-agent/bin/python3 -m pip uninstall --quiet --yes --disable-pip-version-check setuptools pip
COPY falcon_agent /build/falcon_agent
# Compiled here, and never checked again, because at run time the image is read-only.
RUN set -e; cd /opt/falcon-agent/bin; \
    packages=$(./python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
    mv /build/falcon_agent "$packages"; \
    ./python3 -m compileall -q --invalidation-mode unchecked-hash "$packages"; \
    printf '#!/opt/falcon-agent/bin/python3 -I\nimport sys\nfrom falcon_agent.cli import main\nsys.exit(main())\n' \
      >falcon-agent; \
    chmod 0755 falcon-agent

FROM ${BASE}
LABEL org.opencontainers.image.title="falcon-agent" \
      org.opencontainers.image.description="Measures the containers of a host and pushes the numbers to Open-Falcon" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/falcon-agent /opt/falcon-agent
COPY config/rules /etc/falcon-agent/rules
COPY config/dashboards /etc/falcon-agent/dashboards
COPY LICENSE /usr/share/doc/falcon-agent/LICENSE
RUN ln -s /opt/falcon-agent/bin/falcon-agent /usr/local/bin/falcon-agent \
 && mkdir -p /var/lib/falcon-agent && chown 65532:65532 /var/lib/falcon-agent && chmod 0700 /var/lib/falcon-agent
# Where the host's kernel file systems are to be mounted. They win over [paths] of a configuration file.
ENV FALCON_AGENT__PATHS__PROC=/host/proc \
    FALCON_AGENT__PATHS__CGROUP=/host/sys/fs/cgroup
# Most metrics need no privilege; who wants the others says so, by --user 0 and --cap-add.
USER 65532:65532
STOPSIGNAL SIGTERM
# No HEALTHCHECK: a Python started every half minute would cost more than the agent does. That an agent is silent is
# what the nodata rule on agent.alive tells.
ENTRYPOINT ["/opt/falcon-agent/bin/falcon-agent"]
CMD ["run"]
