# One image for every role: docker build -t chrono-flow .
#
# --build-arg LTO=off builds in about half the time, for a program that is a little slower.

FROM rust:1.95-bookworm AS build
ARG LTO=thin
ENV CARGO_PROFILE_RELEASE_LTO=$LTO
WORKDIR /build
# What it depends on is built first, and again only when that changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
 && cargo build --release --locked --bin chrono-flow \
 && rm -r src
COPY sql sql
COPY src src
# The clock of whoever checked the sources out may be behind that of the layer above.
RUN touch src/main.rs src/lib.rs \
 && cargo build --release --locked --bin chrono-flow \
 && strip target/release/chrono-flow

FROM debian:bookworm-slim
# What commands commonly need; tini, as the first process, so that no zombie stays.
RUN apt-get update -q \
 && apt-get install -qy --no-install-recommends ca-certificates curl tini tzdata \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log \
 && groupadd --system --gid 10001 chrono-flow \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/chrono-flow --shell /usr/sbin/nologin chrono-flow \
 && install -d -o chrono-flow -g chrono-flow -m 750 /var/lib/chrono-flow
COPY LICENSE-* /usr/share/doc/chrono-flow/
COPY --from=build /build/target/release/chrono-flow /usr/local/bin/chrono-flow
USER chrono-flow
WORKDIR /var/lib/chrono-flow
ENV CHRONO_FLOW_DATA_DIR=/var/lib/chrono-flow
# The API, controllers among themselves, controllers to workers.
EXPOSE 8080 12000 50051
# A controller hands leadership over; a worker lets its commands end for --drain-s (10 s), then stops them: give it a minute more.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["chrono-flow", "healthcheck"]
ENTRYPOINT ["/usr/bin/tini", "--", "chrono-flow"]
LABEL org.opencontainers.image.title="Chrono-Flow" \
      org.opencontainers.image.description="Cron for many machines that keeps its word when machines die" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.base.name="debian:bookworm-slim"
