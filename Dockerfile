# syntax=docker/dockerfile:1
# Builds cweb and an image to run it. The image has a C compiler: modules are compiled where they run.
#   docker build -t cweb . && docker run --rm -p 8080:8080 -e CWEB_ADMIN_KEY=… -v cweb-data:/data cweb
# HTTPS: server.crt and server.key in the volume, readable for user 10001 (docs/operations.md, "In a container").
# Docker's default seccomp profile refuses io_uring; the server says so and falls back to epoll.

FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends libjansson-dev libsqlite3-dev libssl-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY include include
COPY src src
# The caches live outside the layers, so the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked && strip -o /usr/local/bin/cweb target/release/cweb

# The same Debian as above: the program was linked against its libraries.
FROM debian:bookworm-slim
# libc6-dev is only recommended by gcc, and no module compiles without it. tini reaps what a killed compiler leaves.
# curl is for the health check.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc libc6-dev libjansson-dev libsqlite3-dev libssl-dev curl ca-certificates tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --home-dir /data cweb \
    && install -d -o cweb -g cweb /data
COPY --from=build /usr/local/bin/cweb /usr/local/bin/cweb
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /data
ENV CWEB_DATA_DIR=/data
VOLUME /data
EXPOSE 8080
# HTTPS or HTTP, as it is set up; whom the certificate is for is no question of health.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD curl -fsSk "https://127.0.0.1:${PORT:-8080}/healthz" || curl -fsS "http://127.0.0.1:${PORT:-8080}/healthz" || exit 1
ENTRYPOINT ["tini", "--", "cweb"]
# All interfaces, with CWEB_ADMIN_KEY: from outside the container nobody is "this machine".
CMD ["serve", "--production"]
