#!/usr/bin/env bash
#
# Tests of hugepage-setup.sh: every option and refusal on a machine made of files (fake.sh), then real hugepages
# when root. Prints one line per test; exit code 0 if all passed, 1 if not.
#
#   tests/setup/run.sh [PATTERN]     only the tests whose name matches this extended regular expression
set -euo pipefail
here="$(dirname "$(readlink -f "$0")")"
readonly SETUP="$here/../../hugepage-setup.sh"
# shellcheck source=tests/setup/fake.sh
source "$here/fake.sh"
shopt -s extglob

WORK=$(mktemp -d)
ME=$(id -un)
# As root any other user will do; an ordinary user can only give files to himself.
if [[ $EUID -eq 0 ]]; then OTHER=daemon; else OTHER=$ME; fi
trap 'fake_machine_off; rm -rf "$WORK"' EXIT

setup() { # setup <option>...: its output and exit code in OUT and CODE
    set +e
    OUT=$(PATH="$M/bin:$PATH" BYWASH_SYSROOT="$M" "$SETUP" "$@" 2>&1)
    CODE=$?
    set -e
}

fail() {
    printf '       %s\n' "$1" "exit code $CODE, output:" "$OUT"
    exit 1
}
exits() { [[ $CODE -eq $1 ]] || fail "expected exit code $1"; }
says() { [[ $OUT == *"$1"* ]] || fail "expected in the output: $1"; }
says_not() { [[ $OUT != *"$1"* ]] || fail "not expected in the output: $1"; }
driver_is() {
    local driver=-
    [[ ! -L $M/sys/bus/pci/devices/$1/driver ]] || driver=$(basename "$(readlink "$M/sys/bus/pci/devices/$1/driver")")
    [[ $driver == "$2" ]] || fail "expected driver $2 on $1, it is $driver"
}
file_is() { [[ $(cat "$M/$1" 2>&1) == "$2" ]] || fail "expected '$2' in $1, it is '$(cat "$M/$1" 2>&1)'"; }
refuses() { # refuses <exit code> <text> <option>...: and changes nothing
    local code=$1 text=$2 before
    before=$(fake_machine_picture)
    shift 2
    setup "$@"
    exits "$code"
    says "$text"
    [[ $(fake_machine_picture) == "$before" ]] || fail "it changed something: $(diff <(echo "$before") <(fake_machine_picture))"
    [[ ! -e $M/run/bywash/setup.state ]] || fail 'it left a state file'
}

# ---- binding ----

test_bind_moves_the_nic_to_vfio_pci() {
    setup --bind 0000:02:00.0
    exits 0
    says 'changed  0000:02:00.0: driver virtio-pci -> vfio-pci (IOMMU group 12)'
    says '--undo'
    driver_is 0000:02:00.0 vfio-pci
    file_is run/bywash/setup.state 'nic 0000:02:00.0 virtio-pci -'
}
test_bind_accepts_a_short_address_in_upper_case() {
    mv "$M/sys/bus/pci/devices/0000:02:00.0" "$M/sys/bus/pci/devices/0000:0a:00.0"
    refuses 0 'would    0000:0a:00.0: driver virtio-pci -> vfio-pci' --dry-run --force --bind 0A:00.0
}
test_bind_twice_changes_nothing() {
    setup --bind 0000:02:00.0
    setup --bind 0000:02:00.0
    exits 0
    says 'as is    0000:02:00.0: bound to vfio-pci (IOMMU group 12)'
    says_not changed
    file_is run/bywash/setup.state 'nic 0000:02:00.0 virtio-pci -'
}
test_unbind_gives_the_nic_back() {
    local before
    before=$(fake_machine_picture)
    setup --bind 0000:02:00.0 --user "$OTHER"
    setup --unbind 0000:02:00.0
    exits 0
    says 'changed  0000:02:00.0: driver vfio-pci -> virtio-pci'
    driver_is 0000:02:00.0 virtio-pci
    file_is sys/bus/pci/devices/0000:02:00.0/driver_override ''
    [[ ! -e $M/run/bywash/setup.state ]] || fail 'the state still knows of it'
}
test_unbind_of_a_nic_that_is_not_bound_is_no_error() {
    setup --unbind 0000:02:00.0
    exits 0
    says 'as is    0000:02:00.0: not bound to vfio-pci (driver virtio-pci)'
}
test_unbind_keeps_a_nic_without_driver_without_driver() {
    setup --bind 0000:08:00.0
    exits 0
    says 'driver none -> vfio-pci'
    setup --unbind 0000:08:00.0
    exits 0
    driver_is 0000:08:00.0 -
}
test_unbind_restores_a_former_driver_override() {
    echo virtio-pci >"$M/sys/bus/pci/devices/0000:02:00.0/driver_override"
    setup --bind 0000:02:00.0
    setup --unbind 0000:02:00.0
    exits 0
    file_is sys/bus/pci/devices/0000:02:00.0/driver_override virtio-pci
}
test_unbind_asks_by_name_for_a_former_driver_that_no_probe_finds() {
    echo '- eth1' >"$M/kernel/native/0000:02:00.0"
    setup --bind 0000:02:00.0
    setup --unbind 0000:02:00.0
    exits 0
    driver_is 0000:02:00.0 virtio-pci
}
test_unbind_lets_the_kernel_choose_for_a_nic_that_others_bound() {
    setup --bind 0000:02:00.0
    rm "$M/run/bywash/setup.state"
    setup --unbind 0000:02:00.0
    exits 0
    driver_is 0000:02:00.0 virtio-pci
}
test_unbind_refuses_a_nic_that_a_process_holds_open() {
    setup --bind 0000:02:00.0
    mkdir -p "$M/proc/4711/fd"
    ln -s /dev/vfio/12 "$M/proc/4711/fd/9"
    setup --unbind 0000:02:00.0
    exits 3
    says '/dev/vfio/12 is held open by process 4711'
    driver_is 0000:02:00.0 vfio-pci
    setup --unbind 0000:02:00.0 --force
    exits 0
    driver_is 0000:02:00.0 virtio-pci
}
test_bind_gives_the_nic_back_when_vfio_pci_does_not_take_it() {
    setup --bind 0000:09:00.0
    exits 1
    says 'vfio-pci did not take it, given back to virtio-pci'
    driver_is 0000:09:00.0 virtio-pci
    [[ ! -e $M/run/bywash/setup.state ]] || fail 'the state still knows of it'
}

# ---- refusals ----

test_bind_refuses_the_nic_of_the_default_route() {
    refuses 3 '0000:01:00.0: in use, eth0 carries the default route' --bind 0000:01:00.0
    says --force
}
test_bind_refuses_the_nic_of_the_ipv6_default_route() {
    echo 'default via fe80::1 dev eth1 proto ra metric 1024' >"$M/kernel/routes-6"
    refuses 3 '0000:02:00.0: in use, eth1 carries the default route' --bind 0000:02:00.0
}
test_bind_refuses_a_nic_with_an_address() {
    refuses 3 '0000:06:00.0: in use, eth6 is up with address 198.51.100.7/24' --bind 0000:06:00.0
}
test_bind_refuses_a_nic_below_a_bridge_with_an_address() {
    refuses 3 '0000:07:00.0: in use, eth7 (through br0) is up with address 2001:db8::9/64' --bind 0000:07:00.0
}
test_bind_refuses_all_when_one_of_several_is_in_use() {
    refuses 3 '0000:06:00.0: in use' --pages 8 --bind 0000:02:00.0 --bind 0000:06:00.0
}
test_force_takes_a_nic_in_use() {
    setup --bind 0000:06:00.0 --force
    exits 0
    driver_is 0000:06:00.0 vfio-pci
}
test_bind_names_what_else_is_in_a_group_that_is_not_viable() {
    refuses 1 'IOMMU group 14 is not viable, because the kernel still drives 0000:04:00.1 (driver nvme)' --bind 0000:04:00.0
}
test_force_does_not_bind_into_a_group_that_is_not_viable() {
    refuses 1 'not viable' --bind 0000:04:00.0 --force
}
test_bind_refuses_one_port_of_a_two_port_card_and_takes_both() {
    refuses 1 '--bind 0000:03:00.0 --bind 0000:03:00.1' --bind 0000:03:00.0
    setup --bind 0000:03:00.0 --bind 0000:03:00.1
    exits 0
    driver_is 0000:03:00.0 vfio-pci
    driver_is 0000:03:00.1 vfio-pci
}
test_bind_without_iommu_says_how_to_get_one_on_intel() {
    refuses 1 'it is in no IOMMU group' --bind 0000:05:00.0
    says intel_iommu=on
}
test_bind_without_iommu_says_how_to_get_one_on_amd() {
    echo 'vendor_id : AuthenticAMD' >"$M/proc/cpuinfo"
    refuses 1 amd_iommu=on --bind 0000:05:00.0
}
test_bind_without_vfio_pci_in_the_kernel_says_so() {
    rm -r "$M/kernel/vfio-pci"
    refuses 1 'the kernel has no driver vfio-pci and modprobe vfio-pci failed' --bind 0000:02:00.0
}
test_bind_refuses_what_is_no_free_network_device() {
    refuses 2 '--bind 0000:04:00.1: 0000:04:00.1 is not a network device (class 0x010802)' --bind 0000:04:00.1
    refuses 2 '--bind 0000:77:00.0: there is no PCI device 0000:77:00.0' --bind 0000:77:00.0
    refuses 2 '--bind zebra: not a PCI address such as 0000:03:00.0' --bind zebra
    refuses 2 '--bind ../../../etc: not a PCI address' --bind ../../../etc
    refuses 2 '--bind eth1: that is an interface; its address is 0000:02:00.0' --bind eth1
    refuses 2 '--bind br0: that interface is not a PCI device' --bind br0
    refuses 2 '--unbind zebra: not a PCI address' --unbind zebra
}
test_wrong_options_are_named() {
    refuses 2 'Usage:'
    refuses 2 'unknown option --page' --page 5
    refuses 2 '--pages needs a value' --pages
    refuses 2 '--pages -3: not a number of pages' --pages -3
    refuses 2 '--pages 1k: not a number of pages' --pages 1k
    refuses 2 '--pages 999999999: not a number of pages' --pages 999999999
    refuses 2 '--size 4M: neither 2M nor 1G' --pages 1 --size 4M
    refuses 2 '--node 7: there is no such NUMA node; nodes here: 0 1' --pages 1 --node 7
    refuses 2 '--node x: not a NUMA node' --pages 1 --node x
    refuses 2 '--user nobody-of-that-name: there is no such user' --user nobody-of-that-name
    refuses 2 '--memlock: for which user?' --memlock
    refuses 2 'both --bind and --unbind' --bind 0000:02:00.0 --unbind 0000:02:00.0
    refuses 2 'exclude each other' --status --undo
    refuses 2 'run it alone' --undo --pages 5
    refuses 2 'goes only with' --check --memlock
    refuses 2 'nothing to do' --size 2M
    refuses 1 'nothing to give, no NIC is bound to vfio-pci' --user "$OTHER"
}
test_a_page_size_that_the_machine_lacks_is_named() {
    rm -r "$M/sys/kernel/mm/hugepages/hugepages-1048576kB"
    refuses 2 '--size 1G: this processor or kernel has no pages of that size; sizes here: 2048kB' --pages 1 --size 1G
}
test_only_root_may_change_a_real_machine() {
    local as=()
    # Read from standard input, because that user may not be able to reach this folder.
    [[ $EUID -ne 0 ]] || as=(setpriv --reuid=65534 --clear-groups)
    OUT=$("${as[@]}" bash -s -- --pages 0 <"$SETUP" 2>&1) && CODE=0 || CODE=$?
    exits 4
    says 'only root may change this'
}

# ---- pages, memlock, user ----

test_pages_are_reserved_once() {
    setup --pages 16
    exits 0
    says 'changed  2M hugepages: 0 -> 16'
    file_is sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 16
    setup --pages 16
    exits 0
    says 'as is    2M hugepages: 16'
}
test_pages_of_1g_on_a_node() {
    setup --pages 2 --size 1g --node 1
    exits 0
    says 'changed  1G hugepages on node 1: 0 -> 2'
    file_is sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages 2
    file_is sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages 0
}
test_fewer_pages_than_asked_for_is_an_error_with_the_numbers() {
    # Takes what is written and reads as empty: a kernel that grants none.
    ln -sf /dev/null "$M/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    setup --pages 16
    exits 1
    says 'asked for 16, the kernel granted 0'
    says '2000 MiB available'
    says 'hugepages=16'
    file_is proc/sys/vm/compact_memory 1
}
test_user_gets_the_device_node() {
    setup --bind 0000:02:00.0 --bind 0000:06:00.0 --force --user "$OTHER"
    exits 0
    [[ $(stat -c %U "$M/dev/vfio/12" "$M/dev/vfio/16" | uniq) == "$OTHER" ]] || fail "expected both nodes to belong to $OTHER"
}
test_user_alone_gets_every_bound_nic() {
    setup --bind 0000:02:00.0
    setup --user "$OTHER"
    exits 0
    says '/dev/vfio/12'
    [[ $(stat -c %U "$M/dev/vfio/12") == "$OTHER" ]] || fail "expected the node to belong to $OTHER"
    setup --user "$OTHER"
    says "as is    /dev/vfio/12: belongs to $OTHER"
}
test_memlock_writes_one_line_per_user() {
    setup --memlock --user "$OTHER"
    exits 0
    setup --memlock --user "$OTHER"
    says "as is    memlock of $OTHER"
    setup --memlock --user bin
    exits 0
    [[ $(grep -cx "$OTHER - memlock unlimited" "$M/etc/security/limits.d/90-bywash.conf") -eq 1 ]] || fail 'expected one line for the first user'
    grep -qx 'bin - memlock unlimited' "$M/etc/security/limits.d/90-bywash.conf" || fail 'expected a line for the second user'
}
test_memlock_leaves_a_foreign_file_alone() {
    mkdir -p "$M/etc/security/limits.d"
    echo 'alice - memlock 64' >"$M/etc/security/limits.d/90-bywash.conf"
    refuses 1 'exists and is not ours' --memlock --user "$OTHER"
    setup --undo
    file_is etc/security/limits.d/90-bywash.conf 'alice - memlock 64'
}

# ---- dry run, undo ----

test_dry_run_says_all_and_changes_nothing() {
    refuses 0 'would    2M hugepages: 0 -> 64' --dry-run --pages 64 --bind 0000:02:00.0 --user "$OTHER" --memlock
    says 'would    0000:02:00.0: driver virtio-pci -> vfio-pci'
    says "would    memlock of $OTHER: unlimited"
    says 'would    /dev/vfio/12: owner'
    says_not changed
}
test_undo_puts_everything_back() {
    local before after
    setup --bind 0000:06:00.0 --force # loads the module, which undo leaves
    setup --undo
    mkdir -p "$M/etc/security/limits.d"
    before=$(fake_machine_picture)
    setup --pages 64 --bind 0000:02:00.0 --user "$OTHER" --memlock
    setup --pages 32
    setup --pages 3 --size 1G --node 1 --bind 0000:03:00.0 --bind 0000:03:00.1 --user "$OTHER"
    exits 0
    setup --undo --dry-run
    exits 0
    says 'would    0000:02:00.0: driver vfio-pci -> virtio-pci'
    driver_is 0000:02:00.0 vfio-pci
    setup --undo
    exits 0
    says 'changed  2M hugepages: 32 -> 0'
    says 'changed  1G hugepages on node 1: 3 -> 0'
    # A cleared override reads as an empty line here and as (null) in the kernel.
    after=$(fake_machine_picture)
    [[ ${after//driver_override:?(\(null\))/} == "${before//driver_override:?(\(null\))/}" ]] ||
        fail "not as before: $(diff <(echo "$before") <(echo "$after"))"
    [[ ! -e $M/run/bywash/setup.state ]] || fail 'a state file is left'
    setup --undo
    exits 0
    says 'nothing to undo'
}
test_undo_that_fails_in_one_thing_does_the_rest_and_can_be_repeated() {
    local pages="$M/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    echo 20 >"$pages"
    setup --bind 0000:02:00.0
    setup --pages 10
    ln -sf /dev/null "$pages"
    setup --undo
    exits 1
    says 'not everything could be undone'
    driver_is 0000:02:00.0 virtio-pci
    rm "$pages"
    echo 10 >"$pages"
    setup --undo
    exits 0
    file_is sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 20
}

# ---- status and check ----

test_status_lists_pages_iommu_and_every_nic() {
    echo 512 >"$M/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
    echo 500 >"$M/sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages"
    setup --bind 0000:02:00.0
    setup --status
    exits 0
    [[ $OUT =~ 2M\ +1\ +512\ +500 ]] || fail 'expected the pages of node 1'
    [[ $OUT =~ IOMMU\ +present,\ 8\ groups ]] || fail 'expected the IOMMU'
    [[ $OUT =~ 0000:01:00.0\ +eth0\ +virtio-pci\ +11\ +carries\ the\ default\ route ]] || fail 'expected the NIC in use'
    [[ $OUT =~ 0000:02:00.0\ +-\ +vfio-pci\ +12\ +no,\ ready ]] || fail 'expected the bound NIC'
    [[ $OUT =~ 0000:03:00.1\ +eth3\ +virtio-pci\ +13\ +no\  ]] || fail 'expected the free NIC'
    says_not $'\e'
}
test_status_needs_no_iommu_and_no_nic() {
    rm -r "$M"/sys/kernel/iommu_groups/* "$M"/sys/bus/pci/devices/*
    setup --status
    exits 0
    says absent
    says 'none on the PCI bus'
}
test_colour_is_for_terminals_and_yields_to_no_color() {
    local run="PATH='$M/bin:$PATH' BYWASH_SYSROOT='$M' '$SETUP' --status"
    CODE=0
    OUT=$(env -u NO_COLOR script -qec "$run" /dev/null </dev/null)
    says $'\e[1m'
    OUT=$(NO_COLOR=1 script -qec "$run" /dev/null </dev/null)
    says 0000:01:00.0
    says_not $'\e'
}
test_check_fails_until_everything_is_there() {
    setup --check
    exits 1
    says 'missing  0 of 1 hugepages of 2M free; run ./hugepage-setup.sh --pages'
    says 'missing  driver vfio-pci not loaded'
    says 'missing  no NIC is bound to vfio-pci'
    says 'ok       IOMMU present'
    echo 8 >"$M/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
    setup --bind 0000:02:00.0
    setup --check
    exits 0
    says_not missing
    setup --check --pages 9
    exits 1
    says 'missing  8 of 9 hugepages of 2M free'
    setup --check --bind 0000:06:00.0
    exits 1
    says 'missing  0000:06:00.0 is bound to virtio-pci; run ./hugepage-setup.sh --bind 0000:06:00.0'
    rm "$M/dev/vfio/12"
    setup --check
    exits 1
    says '/dev/vfio/12 may not be opened'
}
test_check_names_a_group_that_lost_its_viability() {
    echo 8 >"$M/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
    setup --bind 0000:03:00.0 --bind 0000:03:00.1
    kernel_detach 0000:03:00.1
    kernel_attach 0000:03:00.1 virtio-pci
    setup --check
    exits 1
    says 'IOMMU group 13 is not viable, the kernel drives 0000:03:00.1 virtio-pci'
}
test_help_shows_examples_and_exit_codes() {
    setup --help
    exits 0
    says Examples:
    says 'Exit codes:'
}

# ---- the real kernel ----

test_real_hugepages_are_reserved_and_given_back() {
    pages=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
    if [[ $EUID -ne 0 || ! -w $pages ]]; then
        echo "SKIPPED: real hugepages: $([[ $EUID -eq 0 ]] && echo 'this kernel has none of 2 MiB' || echo 'not root')"
        return
    fi
    # The suites that reserve pages hold this lock (tests/src/hugepages.rs): they count what is free.
    exec {lock}>/tmp/bywash-peers.lock
    flock -w 240 "$lock" || { echo 'another suite has held /tmp/bywash-peers.lock for 240 s; wait for it to end'; exit 1; }
    before=$(<"$pages") # not local: the trap below runs outside this function
    # The real /sys and /proc, a state of its own: what an administrator set up is not ours to undo.
    M="$WORK/real"
    mkdir -p "$M/run" "$M/etc" "$M/bin"
    ln -s /sys "$M/sys"
    ln -s /proc "$M/proc"
    trap 'echo "$before" >"$pages"' EXIT
    setup --pages $((before + 3))
    exits 0
    [[ $(<"$pages") -eq $((before + 3)) ]] || fail "expected $((before + 3)) pages"
    setup --pages $((before + 3))
    says 'as is'
    setup --check --pages 3
    says 'hugepages of 2M free'
    says_not 'missing  3 of'
    setup --undo
    exits 0
    [[ $(<"$pages") -eq $before ]] || fail "expected $before pages again"
}

main() {
    local name ran=0 failed=0 log="$WORK/log"
    for name in $(declare -F | awk '$3 ~ /^test_/ { print $3 }'); do
        [[ $name =~ ${1:-.} ]] || continue
        ran=$((ran + 1))
        rm -rf "$WORK/machine"
        fake_machine "$WORK/machine"
        set +e
        (
            set -e
            trap - EXIT
            "$name"
        ) >"$log" 2>&1
        CODE=$?
        set -e
        if [[ $CODE -eq 0 ]]; then
            printf 'ok     %s\n' "${name#test_}"
            grep SKIPPED "$log" || true
        else
            printf 'FAILED %s\n' "${name#test_}"
            cat "$log"
            failed=$((failed + 1))
        fi
        fake_machine_off
    done
    printf '%d tests of hugepage-setup.sh, %d failed\n' "$ran" "$failed"
    [[ $ran -gt 0 && $failed -eq 0 ]]
}

main "$@"
