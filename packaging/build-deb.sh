#!/usr/bin/env bash
#
# Builds the Debian package: the release build, what is made from its command line definition, and cargo-deb
# (cargo install cargo-deb). The package is in target/debian/.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

made=target/package
cargo build --release --locked -p bywash
rm -rf "$made"
mkdir -p "$made/completions"
target/release/bywash man "$made/man"
gzip -9n "$made"/man/*.1
for shell in bash zsh fish; do
    target/release/bywash completions "$shell" >"$made/completions/bywash.$shell"
done
cargo deb --no-build --locked -p bywash
