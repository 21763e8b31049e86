# The image of agent and controller: Python, libbpf, libpcap and the package; no compiler, nothing that needs a shell.
# BASE may be any Debian 12 or later, Ubuntu 24.04 or later: `docker build --build-arg BASE=debian:bookworm-slim .`
# `--target trace`: with BCC and its LLVM besides, for `sniffer trace`. `--target arm64 --output DIR`: what an image for
# arm64 is made of, made on any machine.
ARG BASE=debian:trixie-20261005-slim@sha256:a29215f6a35e51e22adffa17f89e9d2ef06214e64a2bad10d765c46aea49f11f

FROM ${BASE} AS build
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        ca-certificates clang libbpf-dev linux-libc-dev llvm make python3-venv >/dev/null
WORKDIR /src

# What the lock file names, versions and hashes, but for what only development needs.
COPY pyproject.toml requirements.lock ./
COPY scripts/locked scripts/
RUN python3 -m venv --without-pip /opt/sniffer && python3 -m venv /pip && \
    /pip/bin/python scripts/locked >needed.txt && /pip/bin/python scripts/locked hatchling >tools.txt && \
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1 && \
    /pip/bin/pip --python /opt/sniffer/bin/python install --quiet --requirement needed.txt && \
    /pip/bin/pip install --quiet --requirement tools.txt && \
    # 64 MB of the same client once more, for asyncio: nothing of ours imports it.
    rm -r /opt/sniffer/lib/python3*/site-packages/kubernetes/aio

# What changes with every edit, in a layer of its own.
FROM build AS package
COPY Makefile ./
COPY bpf bpf
RUN make --old-file=packages build/sniffer.bpf.o build/capture.bpf.o
COPY README.md LICENSE ./
COPY sniffer sniffer
# The objects and their digests, by which the agent knows them.
RUN make --old-file=packages packaged && \
    /pip/bin/pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist . && \
    /pip/bin/pip --python /opt/sniffer/bin/python install --quiet --disable-pip-version-check --no-deps --no-index \
        --no-warn-script-location --root /package dist/*.whl

# The wheels of arm64, and the object compiled with its headers.
FROM build AS build-arm64
RUN DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends linux-libc-dev-arm64-cross >/dev/null
RUN /pip/bin/pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
        --only-binary :all: --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 --dest /arm64 --requirement needed.txt
COPY Makefile ./
COPY bpf bpf
RUN make --old-file=packages build/aarch64/sniffer.bpf.o build/aarch64/capture.bpf.o && cp build/aarch64/*.bpf.o /arm64/

FROM scratch AS arm64
COPY --from=build-arm64 /arm64 /
COPY --from=package /src/dist /

# netbase: /etc/services and /etc/protocols, by which filters name ports.
FROM ${BASE} AS system
RUN apt-get update -qq && \
    { apt-cache show libpcap0.8t64 >/dev/null 2>&1 && pcap=libpcap0.8t64 || pcap=libpcap0.8; } && \
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends libbpf1 $pcap netbase python3 >/dev/null && \
    apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*
ENV PATH=/opt/sniffer/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1

FROM system AS system-trace
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-bpfcc >/dev/null && \
    apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*

FROM system-trace AS trace
COPY --from=build /opt/sniffer /opt/sniffer
# Debian's bcc, after everything of the lock file.
RUN echo /usr/lib/python3/dist-packages >"$(echo /opt/sniffer/lib/python3*/site-packages)/debian.pth"
COPY --from=package /package /
RUN --mount=type=bind,source=scripts/sbom,target=/sbom /opt/sniffer/bin/python /sbom >/opt/sniffer/sbom.spdx.json
ENTRYPOINT ["sniffer"]

FROM system
COPY --from=build /opt/sniffer /opt/sniffer
COPY --from=package /package /
RUN --mount=type=bind,source=scripts/sbom,target=/sbom /opt/sniffer/bin/python /sbom >/opt/sniffer/sbom.spdx.json
# Who needs root says so: the agent, which attaches programs.
USER 65532:65532
ENTRYPOINT ["sniffer"]
