# The host's image: one static binary and nothing else.
#   docker build -t windlass:0.1.0 .
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN rustup target add x86_64-unknown-linux-musl \
    && cargo build --release --locked --package windlass-host --target x86_64-unknown-linux-musl

FROM scratch
COPY --from=build /src/target/x86_64-unknown-linux-musl/release/windlass /windlass
USER 65532:65532
ENTRYPOINT ["/windlass"]
CMD ["run"]
