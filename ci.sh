#!/usr/bin/env bash
#
# Every check of the project, one job each:  ./ci.sh <job>...  or  ./ci.sh all
#
# A job passes or fails as a whole; `all` stops at the first that fails and ends with a table of durations.
# Suites that need root, hugepages or other programs skip loudly where they cannot run; BYWASH_REQUIRE names
# those whose skip is a failure (comma list of dpdk, vm, netns, hist, advisories).
#
# Exit codes: 0 all jobs passed, 1 a job failed, 2 wrong usage.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

# In the order in which `all` runs them: cheap and telling first.
readonly JOBS=(setup fmt lint doc deny test hist scripts examples model sim fuzz netns dpdk vm bench readme)

readonly TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
# Sanitized and loom builds have flags of their own; in the common folder they would rebuild everything each time.
readonly ASAN_DIR="$TARGET_DIR/asan"
readonly LOOM_DIR="$TARGET_DIR/loom"

# What the tests need beside a Rust toolchain, by Debian package.
readonly PACKAGES=(
    gcc libc6-dev                               # the linker and C library that rustc uses
    g++                                         # libFuzzer, which the fuzz targets are linked with
    dpdk                                        # testpmd, the peer of the vhost-user ports
    dpdk-dev                                    # dpdk-telemetry.py, which our telemetry socket answers
    qemu-system-x86 busybox-static cpio zstd    # the guest in which VFIO is real, and its initramfs
    kmod pciutils iproute2                      # modprobe, lspci, ip: what hugepage-setup.sh calls
    util-linux bsdutils findutils               # flock, setpriv, script, find: the same script and its tests
    curl apache2-utils wrk netcat-openbsd iperf3  # the kernel as a peer: clients of our servers, one stream,
    tcpdump                                     # reads what we capture; its libpcap compiles filters
    iputils-ping dnsmasq-base ethtool           # echo requests; DHCP, router advertisements and DNS; checksums of veth
    shellcheck                                  # lint of the scripts
    python3-venv                                # HdrHistogram's Python package, in an environment of its own
)
# 2 MiB pages: two testpmd of 512 MiB each, our own regions, and the guest's room to breathe.
readonly HUGEPAGES="${BYWASH_CI_HUGEPAGES:-1024}"
readonly HUGEPAGES_FILE=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages

if [[ -t 1 && -z "${NO_COLOR:-}" ]]; then
    BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
    BOLD='' GREEN='' RED='' YELLOW='' PLAIN=''
fi
readonly BOLD GREEN RED YELLOW PLAIN

usage() {
    cat <<USAGE
Usage: ./ci.sh <job>...

  all      every job below, in this order; stops at the first that fails
  setup    install Debian packages, cargo-deny, reserve hugepages (packages and hugepages only as root)
  fmt      cargo fmt --check
  lint     clippy without warnings; shellcheck on every script
  doc      rustdoc without warnings
  deny     licences, banned and duplicate crates, registries, security advisories
  test     unit, documentation and integration tests that need neither root nor hardware
  hist     our latency files and metrics, read back by the Python packages of HdrHistogram and Prometheus
  scripts  hugepage-setup.sh over a fake /sys, and for real when root
  examples start every file in configs/; run every program in apps/examples/
  model    loom on the lock-free rings; property tests with many more cases
  sim      the stack against itself on thousands of bad networks, and against plain smoltcp; 100,000 connections leak nothing
  fuzz     the tests of drivers and door, liars on the other side among them, and the fuzz targets, under AddressSanitizer
  netns    the running kernel at the other end of our TAP and AF_XDP ports, in network namespaces
  dpdk     DPDK's testpmd on the other end of our vhost-user ports; dpdk-telemetry.py on our telemetry socket
  vm       VFIO in a QEMU guest with a virtual IOMMU; the kernel as client of servers there
  bench    every benchmark; in a short form that measures nothing of worth when part of all
  readme   run the README's marked commands

Environment:
  BYWASH_REQUIRE=dpdk,vm,netns,hist,advisories   make a skip of these a failure
  BYWASH_CI_HUGEPAGES=$HUGEPAGES            2 MiB pages that setup reserves
  BYWASH_FUZZ_SECONDS=15              how long each fuzz target runs
USAGE
}

say() { printf '%s\n' "$*"; }

skip() { # skip <what BYWASH_REQUIRE calls it> <why>
    if [[ ",${BYWASH_REQUIRE:-}," == *",$1,"* ]]; then
        say "${RED}REQUIRED but not possible: $1: $2${PLAIN}"
        return 1
    fi
    say "${YELLOW}SKIPPED: $1: $2${PLAIN}"
}

# Runs `cargo test …` and insists that some test ran: a filter that matches nothing would pass for ever.
cargo_test_some() {
    cargo test "$@" | awk '
        { print; fflush() }
        /^running [0-9]+ tests?$/ { ran += $2 }
        END { if (!ran) { print "no test ran: the filter matches none"; exit 1 } }'
}

scripts_of_the_project() {
    find . \( -path ./target -o -path ./.git -o -path ./bench/out \) -prune -o -type f -size -256k \
        -exec awk 'FNR == 1 { if (/^#! ?\/.*[\/ ](ba|da)?sh( |$)/) print FILENAME; nextfile }' {} + | sort
}

job_setup() {
    local package missing=()
    for package in "${PACKAGES[@]}"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    if [[ $EUID -ne 0 ]]; then
        [[ ${#missing[@]} -eq 0 ]] ||
            say "${YELLOW}SKIPPED: not root, so not installed: ${missing[*]} (sudo apt-get install ${missing[*]})${PLAIN}"
        say "${YELLOW}SKIPPED: not root, so no hugepages reserved (sudo ./hugepage-setup.sh --pages $HUGEPAGES)${PLAIN}"
    else
        # The lists are needed even with nothing to install: the vm job downloads the guest's kernel with apt-get.
        DEBIAN_FRONTEND=noninteractive apt-get -q update
        if [[ ${#missing[@]} -gt 0 ]]; then
            say "installing ${missing[*]}"
            DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}"
        fi
        # What somebody reserved beyond that stays.
        if [[ $(<"$HUGEPAGES_FILE") -lt $HUGEPAGES ]]; then ./hugepage-setup.sh --pages "$HUGEPAGES" --size 2M; fi
    fi
    rustup component add rustfmt clippy
    cargo deny --version || cargo install cargo-deny --locked
    cargo fuzz --version || cargo install cargo-fuzz --locked
}

job_fmt() { cargo fmt --all --check; }

job_lint() {
    cargo clippy --workspace --all-targets --locked -- -D warnings
    local scripts
    mapfile -t scripts < <(scripts_of_the_project)
    say "shellcheck ${scripts[*]}"
    shellcheck --external-sources "${scripts[@]}"
}

job_doc() { RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --document-private-items --locked; }

job_deny() {
    cargo deny --locked check bans licenses sources
    # The advisories live in a Git repository of their own, which a closed network does not reach.
    if timeout 120 cargo deny fetch db; then
        cargo deny --locked check --disable-fetch advisories
    else
        skip advisories 'the advisory database cannot be fetched from here'
    fi
}

job_test() {
    # The suites against DPDK, the guest and Python's HdrHistogram are jobs of their own; here they may skip.
    BYWASH_REQUIRE='' cargo test --workspace --exclude bywash-tests --locked
    cargo test -p bywash-tests --lib --test conformance --locked
}

job_hist() {
    local venv="$TARGET_DIR/hist-venv"
    if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c 'import hdrh, prometheus_client' 2>/dev/null; then
        if ! { python3 -m venv "$venv" && "$venv/bin/pip" -q install hdrhistogram prometheus_client; }; then
            skip hist 'no virtual environment with the Python packages hdrhistogram and prometheus_client can be made here'
            return
        fi
    fi
    BYWASH_PYTHON="$venv/bin/python" cargo_test_some --locked -p bywash --test hist --test metrics
}

job_examples() {
    cargo_test_some --locked -p bywash --test configs
    local source example
    for source in apps/examples/*.rs; do
        example=$(basename "$source" .rs)
        say "example $example"
        # They end by themselves; one that hangs fails.
        timeout 300 cargo run --locked -p bywash --example "$example"
    done
}

job_scripts() { tests/setup/run.sh; }

# Optimised, because models count steps in millions, but with overflow checks and debug assertions, and without the
# link-time work of a release.
optimised_test() {
    CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo_test_some --release --locked "$@"
}

job_model() {
    LOOM_MAX_PREEMPTIONS=3 RUSTFLAGS='--cfg loom' \
        optimised_test -p bywash-pmd -p bywash-engine -p bywash-door --lib --target-dir "$LOOM_DIR" loom
    PROPTEST_CASES=4096 optimised_test --workspace --exclude bywash-tests --lib
}

# BYWASH_LEAK_CONNECTIONS=1000000 BYWASH_LEAK_OPEN=100000 is the full form of the last one.
job_sim() {
    BYWASH_SIM_SEEDS="${BYWASH_SIM_SEEDS:-4000}" optimised_test -p bywash-stack --test sim -- --nocapture
    PROPTEST_CASES="${PROPTEST_CASES:-10000}" optimised_test -p bywash-stack --test differential
    BYWASH_LEAK_CONNECTIONS="${BYWASH_LEAK_CONNECTIONS:-100000}" BYWASH_LEAK_OPEN="${BYWASH_LEAK_OPEN:-10000}" \
        optimised_test -p bywash-stack --test leak -- --nocapture
}

# Every test of the crates that hold the unsafe code, the lying devices, drivers and applications among them.
job_fuzz() {
    # What an mbuf that outlives its pool points into is kept for ever: that test alone may leak.
    local leaks=mbuf_that_outlives_its_pool
    # The sanitizer is an unstable flag of the stable compiler; with an explicit target it leaves build scripts alone.
    local asan=(-p bywash-pmd -p bywash-door --target x86_64-unknown-linux-gnu --target-dir "$ASAN_DIR")
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address PROPTEST_CASES=1024
    optimised_test "${asan[@]}" --lib --tests -- --skip "$leaks"
    ASAN_OPTIONS=detect_leaks=0 optimised_test "${asan[@]}" --lib "$leaks"
    unset RUSTFLAGS
    # Each target for a while, from the inputs in the repository on; what is found on the way is not added to them.
    local target found="$TARGET_DIR/fuzz/found"
    for target in device driver frontend capabilities; do
        mkdir -p "$found/$target"
        cargo fuzz run --fuzz-dir pmd/fuzz --target-dir "$TARGET_DIR/fuzz" "$target" \
            "$found/$target" "pmd/fuzz/corpus/$target" -- \
            -max_total_time="${BYWASH_FUZZ_SECONDS:-15}" -max_len=1024 -print_final_stats=1 -verbosity=0 \
            -artifact_prefix="$found/"
    done
}

job_netns() { cargo_test_some --release --locked -p bywash-tests --test netns -- --nocapture --test-threads=1; }

job_dpdk() { cargo_test_some --release --locked -p bywash-tests --test dpdk -- --nocapture --test-threads=1; }

job_vm() { cargo_test_some --release --locked -p bywash-tests --test vm -- --nocapture --test-threads=1; }

# Set by `all`: benchmarks only show that they work.
SMOKE=''

job_bench() {
    local bench=(cargo run --release --locked -p bywash-bench -- ${SMOKE:+--smoke})
    if [[ $EUID -eq 0 ]] && command -v dpdk-testpmd >/dev/null && command -v qemu-system-x86_64 >/dev/null; then
        "${bench[@]}" all
    else
        "${bench[@]}" mempool
        skip dpdk 'the comparing benchmarks need root, dpdk-testpmd and qemu-system-x86_64'
    fi
}

# Prints the README's commands as one script. A fenced block takes part when its info string ends in `run`
# (```console run, ```sh run): of a console block the lines after `$ ` with their continuations, of a sh block all.
readme_script() {
    awk '
        /^```/ && inside { inside = 0; next }
        /^```(console|sh) run$/ { inside = 1; console = /console/; blocks++; next }
        !inside { next }
        console && !continued && !sub(/^\$ /, "") { next }
        { continued = /\\$/; print }
        END { exit blocks == 0 }
    ' README.md
}

job_readme() {
    local script
    if ! script=$(readme_script); then
        say 'README.md has no fenced block marked "console run" or "sh run"'
        return 1
    fi
    # -v shows each command as it is read.
    bash -euo pipefail -v <(printf '%s\n' "$script")
}

# Runs one job in a subshell of its own and leaves its result in job_status, its duration in job_seconds.
run_job() {
    local started=$SECONDS
    printf '\n%s==== %s ====%s\n' "$BOLD" "$1" "$PLAIN"
    # Not `if ( … )`: in a condition bash would ignore `set -e` in the job.
    set +e
    (
        set -e
        "job_$1"
    )
    job_status=$?
    set -e
    job_seconds=$((SECONDS - started))
    if [[ $job_status -eq 0 ]]; then
        printf '%s==== %s: PASS in %d s%s\n' "$GREEN" "$1" "$job_seconds" "$PLAIN"
    else
        printf '%s==== %s: FAIL (exit %d) after %d s; again with ./ci.sh %s%s\n' \
            "$RED" "$1" "$job_status" "$job_seconds" "$1" "$PLAIN"
    fi
}

main() {
    local job wanted=() table=()
    # rustup's default place, for shells that have not read its profile.
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin"
    [[ $# -gt 0 ]] || { usage >&2; exit 2; }
    for job in "$@"; do
        case $job in
            -h | --help | help) usage; exit 0 ;;
            all)
                wanted+=("${JOBS[@]}")
                SMOKE=1
                ;;
            *)
                if ! declare -F "job_$job" >/dev/null; then
                    say "ci.sh: no job '$job'; there are: all ${JOBS[*]}" >&2
                    exit 2
                fi
                wanted+=("$job")
                ;;
        esac
    done
    for job in "${wanted[@]}"; do
        run_job "$job"
        if [[ $job_status -ne 0 ]]; then
            table+=("$(printf '  %-8s %5d s  FAIL' "$job" "$job_seconds")")
            break
        fi
        table+=("$(printf '  %-8s %5d s  ok' "$job" "$job_seconds")")
    done
    printf '\n%s%d of %d jobs ran, %d s%s\n' "$BOLD" "${#table[@]}" "${#wanted[@]}" "$SECONDS" "$PLAIN"
    printf '%s\n' "${table[@]}"
    [[ $job_status -eq 0 ]] || exit 1
}

main "$@"
