# infercached, infercachectl and the demo on Debian 12.
#
#   docker build -t infercache .
#   docker build -t infercache --build-arg RUN_TESTS=1 .        # the build fails if a test does
#   docker run --read-only infercache
#
# How containers reach it, and what to set for a real one: docs/install.md, deploy/compose.yaml.

FROM debian:bookworm-slim AS build
WORKDIR /src
# A layer of its own: it changes only with the list of packages.
COPY deploy/install-deps.sh deploy/install-deps.sh
RUN deploy/install-deps.sh --build && deploy/install-deps.sh --package
COPY . .
ARG RUN_TESTS=
RUN if [ -n "$RUN_TESTS" ]; then tests/run.sh --quick; fi
RUN cmake --preset release -DCMAKE_INSTALL_PREFIX=/usr \
 && cmake --build --preset release \
 && (cd build/release && cpack) \
 && DESTDIR=/demo cmake --install build/release --component demo --strip

FROM debian:bookworm-slim
# A fixed uid, so that volumes and policies can name it; the packages find the user and keep it. A
# volume or tmpfs over the socket's directory takes on its mode, but a tmpfs belongs to root: hence
# 1777, as /tmp. Workers mount it read-only, which suffices to connect.
RUN groupadd --gid 7400 infercache \
 && useradd --uid 7400 --gid infercache --no-create-home --home-dir /nonexistent \
    --shell /usr/sbin/nologin infercache \
 && install -d -o infercache -g infercache -m 1777 /run/infercache
# The same packages as on a host: they bring the libraries that the programs link, and nothing else.
RUN --mount=type=bind,from=build,source=/src/build/release/packages,target=/packages \
    apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends \
    /packages/infercache-server_*.deb /packages/infercache-cli_*.deb \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
COPY --from=build /demo/usr/bin/prefill_demo /usr/bin/prefill_demo
COPY ARCHITECTURE.md /usr/share/infercache/ARCHITECTURE.md
COPY deploy/container.yaml /etc/infercache/infercached.yaml

# A file is what options and the environment win over, so that `docker run infercache --capacity 8GiB`
# and `-e INFERCACHE_CAPACITY=8GiB` work, and a mounted file replaces it as a whole. Programs in the
# container reach the daemon on its socket, whatever it serves on TCP.
ENV INFERCACHE_CONFIG=/etc/infercache/infercached.yaml \
    INFERCACHE_ENDPOINT=unix:/run/infercache/infercached.sock
VOLUME /run/infercache
USER 7400:7400
EXPOSE 7400 7401
STOPSIGNAL SIGTERM
# Populating memory takes about 0.3 s for each GiB; failures do not count while it starts.
HEALTHCHECK --interval=2s --timeout=3s --retries=30 \
  CMD ["infercachectl", "--deadline", "2s", "ping"]
ENTRYPOINT ["/usr/bin/infercached"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="infercache" \
      org.opencontainers.image.description="Cache daemon for inference workers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
