#!/usr/bin/env bash
#
# Prepares a machine for Bywash: hugepages, the memlock limit, NICs on vfio-pci. Everything it does it can undo.
# Run with --help for options, examples and exit codes.
#
# State: what stood there before the first change is kept in /run/bywash/setup.state, one line each,
#   pages <file> <count>              nic <address> <driver or -> <driver_override or ->
#   owner <device node> <uid:gid>     limits <file> -
# oldest first; --undo works through it backwards. It vanishes at a reboot, and so do hugepages and bindings.
#
# `bywash devices` has a copy of this script in it and calls that; BYWASH_UNDO is then its own way to undo.
# BYWASH_SYSROOT (for tests) is put before /sys, /proc, /dev, /run and /etc, and lifts the need for root.
set -euo pipefail

readonly ROOT="${BYWASH_SYSROOT:-}"
readonly SYS="$ROOT/sys" STATE="$ROOT/run/bywash/setup.state"
readonly LIMITS="$ROOT/etc/security/limits.d/90-bywash.conf"
readonly LIMITS_MARK='# Written by hugepage-setup.sh --memlock of Bywash; hugepage-setup.sh --undo removes it.'
readonly PCI_ADDRESS='^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$'

readonly E_FAILED=1 E_USAGE=2 E_REFUSED=3 E_NOT_ROOT=4

if [[ -t 1 && -z "${NO_COLOR:-}" ]]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' RED=$'\e[31m' YELLOW=$'\e[33m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' GREEN='' RED='' YELLOW='' PLAIN=''
fi
readonly BOLD DIM GREEN RED YELLOW PLAIN
# Tables fit the terminal; elsewhere nothing is cut.
WIDTH=1000
[[ ! -t 1 ]] || WIDTH=$(stty size </dev/tty 2>/dev/null | cut -d ' ' -f 2) || true
[[ $WIDTH -ge 60 ]] 2>/dev/null || WIDTH=100
readonly WIDTH

usage() {
    cat <<'USAGE'
Prepares a machine for Bywash: hugepages, the memlock limit, NICs on vfio-pci.

Usage: hugepage-setup.sh [options]

Look (any user):
  --status          hugepages, memlock, IOMMU and NICs as they are now
  --check           is a vfio: port ready to open? one line per need; exit 1 if not
                    (with --pages N: that many free; with --bind ADDR: that very NIC)

Change (root):
  --pages N         have exactly N hugepages; 0 gives all of them back
  --size 2M|1G      of this size (2M)
  --node N          on this NUMA node (else the kernel spreads them over all nodes)
  --bind ADDR       take the NIC from the kernel and give it to vfio-pci; may be repeated, which
                    is what NICs that share an IOMMU group need
  --unbind ADDR     give the NIC back to the kernel driver it came from; may be repeated
  --user NAME       let this user open the bound NICs (owner of /dev/vfio/<group>)
  --memlock         let that user lock memory without limit (file in /etc/security/limits.d)
  --undo            put back all that earlier calls changed, newest first

  --dry-run         print what would be done; changes nothing, needs no root
  --force           take a NIC that is in use, unbind one that a process holds open
  -h, --help        this text

Examples:
  ./hugepage-setup.sh --status
  sudo ./hugepage-setup.sh --pages 1024                       2 GiB in 2 MiB pages
  sudo ./hugepage-setup.sh --pages 4 --size 1G --node 0
  sudo ./hugepage-setup.sh --pages 1024 --bind 0000:03:00.0 --user "$USER" --memlock
  ./hugepage-setup.sh --check && bywash l2fwd --port vfio:0000:03:00.0
  sudo ./hugepage-setup.sh --undo

Everything but the memlock file is gone after a reboot. To have hugepages from boot on, where memory is
not yet fragmented, add hugepages=N (1G: hugepagesz=1G hugepages=N) to the kernel's command line.

Exit codes: 0 done, or ready; 1 could not be done, or not ready; 2 wrong usage or value;
            3 refused because the NIC is in use (--force overrides); 4 needs root
USAGE
}

die() { # die <exit code> <what, cause, next command>
    printf '%shugepage-setup.sh: %s%s\n' "$RED" "$2" "$PLAIN" >&2
    exit "$1"
}

# What a line says of each change: "changed", or "would" in a dry run.
VERB=changed
changed() { printf '%s%-8s%s %s\n' "$GREEN" "$VERB" "$PLAIN" "$1"; }
as_is() { printf '%s%-8s%s %s\n' "$DIM" 'as is' "$PLAIN" "$1"; }
warn() { printf '%s%-8s%s %s\n' "$YELLOW" warning "$PLAIN" "$1"; }

# ---- reading the machine --------------------------------------------------------------------------------------

# The first line of a file under /sys or /proc, empty if there is none.
value_of() {
    local line=''
    [[ ! -r $1 ]] || read -r line <"$1" || true
    printf '%s' "${line//$'\0'/}"
}

names_in() { # the names of a glob's matches, one line, with an optional prefix cut off
    local prefix=$1 path out=()
    shift
    for path in "$@"; do
        [[ ! -e $path && ! -L $path ]] || { path=${path##*/}; out+=("${path#"$prefix"}"); }
    done
    printf '%s' "${out[*]-}"
}

size_kib() { case $1 in 2M) echo 2048 ;; 1G) echo 1048576 ;; esac; }

# The folder with the counters of one page size, of one node if given.
pages_dir() { # pages_dir <2M|1G> [node]
    local mm="$SYS/kernel/mm"
    [[ -z ${2:-} ]] || mm="$SYS/devices/system/node/node$2"
    echo "$mm/hugepages/hugepages-$(size_kib "$1")kB"
}

# What lines say for a file of the above.
pages_label() {
    local label='2M hugepages'
    [[ $1 != *hugepages-1048576kB* ]] || label='1G hugepages'
    [[ ! $1 =~ /node/node([0-9]+)/ ]] || label+=" on node ${BASH_REMATCH[1]}"
    echo "$label"
}

driver_of() { [[ -L $SYS/bus/pci/devices/$1/driver ]] && basename "$(readlink "$SYS/bus/pci/devices/$1/driver")" || echo -; }
group_of() { [[ -L $SYS/bus/pci/devices/$1/iommu_group ]] && basename "$(readlink "$SYS/bus/pci/devices/$1/iommu_group")" || echo -; }
is_network() { [[ $(value_of "$SYS/bus/pci/devices/$1/class") == 0x02* ]]; }
interfaces_of() { names_in '' "$SYS/bus/pci/devices/$1"/net/* "$SYS/bus/pci/devices/$1"/virtio*/net/*; }

network_devices() {
    local path
    for path in "$SYS"/bus/pci/devices/*; do
        ! is_network "${path##*/}" || echo "${path##*/}"
    done
}

# An interface and all that stands on it: bridge, bond, VLAN.
with_uppers() {
    local upper
    echo "$1"
    for upper in $(names_in upper_ "$SYS/class/net/$1"/upper_*); do with_uppers "$upper"; done
}

# Why the NIC must not be taken away; nothing if it may.
use_of() {
    local interface stacked routes addresses via
    routes=$(ip -o -4 route show default table all; ip -o -6 route show default table all)
    for interface in $(interfaces_of "$1"); do
        for stacked in $(with_uppers "$interface"); do
            via=$interface
            [[ $stacked == "$interface" ]] || via="$interface (through $stacked)"
            if grep -qE "(^| )dev $stacked( |\$)" <<<"$routes"; then
                echo "$via carries the default route"
                return
            fi
            # Every interface that is up has a link-local IPv6 address; only others show that somebody uses it.
            addresses=$(ip -o addr show dev "$stacked" up | awk '$3 ~ /^inet/ && $4 !~ /^fe80:/ { printf "%s%s", sep, $4; sep = ", " }')
            if [[ -n $addresses ]]; then
                echo "$via is up with address $addresses"
                return
            fi
        done
    done
}

# The devices that keep a group from being opened: "address driver", one a line. A driver other than vfio's own,
# pci-stub, or a port service of a bridge holds its device's DMA in the kernel's hands. Devices named after the
# group are about to be bound and do not count.
group_blockers() { # group_blockers <group> [address]...
    local group=$1 path address driver
    shift
    for path in "$SYS/kernel/iommu_groups/$group/devices"/*; do
        address=${path##*/}
        driver=$(driver_of "$address")
        case $driver in - | vfio-pci | *-vfio-pci | pci-stub | pcieport) continue ;; esac
        [[ " $* " == *" $address "* ]] || echo "$address $driver"
    done
}

iommu_present() { [[ -n $(names_in '' "$SYS"/kernel/iommu_groups/*) ]]; }

iommu_advice() {
    local parameter='intel_iommu=on'
    ! grep -qs AuthenticAMD "$ROOT/proc/cpuinfo" || parameter='amd_iommu=on'
    echo "enable VT-d or AMD-Vi in the firmware and add $parameter to the kernel's command line; a virtual machine needs a virtual IOMMU"
}

holders_of_group() { # processes that hold /dev/vfio/<group> open
    # Processes come and go under find's feet: what it could not read is no error.
    { find "$ROOT"/proc/[0-9]*/fd -lname "/dev/vfio/$1" 2>/dev/null || true; } | sed -n "s|^$ROOT/proc/\([0-9]*\)/.*|\1|p" | sort -un | tr '\n' ' '
}

# ---- changing it ----------------------------------------------------------------------------------------------

DRY_RUN=''

# Dies by itself: inside a condition `set -e` would let a failed write pass.
put() { # put <value> <file>
    [[ -n $DRY_RUN ]] || printf '%s\n' "$1" >"$2" || die $E_FAILED "the kernel refused '$1' in $2; see the last lines of dmesg"
}

# Keeps what stood there before the first change; a later change of the same thing keeps the oldest.
remember() { # remember <kind> <key> <former>...
    [[ -z $DRY_RUN ]] || return 0
    mkdir -p "${STATE%/*}"
    ! grep -qsF "$1 $2 " "$STATE" || return 0
    echo "$*" >>"$STATE"
}

forget() { # forget <kind> <key>
    [[ -z $DRY_RUN && -f $STATE ]] || return 0
    grep -vF "$1 $2 " "$STATE" >"$STATE.new" || true
    mv "$STATE.new" "$STATE"
    [[ -s $STATE ]] || rm -f "$STATE"
}

# The kernel answers a probe at once; udev and the fake tree of the tests take a moment.
settles() { # settles <command>...: true as soon as it is, false after 2 s
    local try
    for try in {1..40}; do
        ! "$@" || return 0
        [[ $try -eq 40 ]] || sleep 0.05
    done
    return 1
}
has_driver() { [[ $(driver_of "$1") == "$2" ]]; }
lacks_driver() { ! has_driver "$@"; }

set_pages() { # set_pages <file> <count> <what it is called>
    local file=$1 wanted=$2 label=$3 had got available
    had=$(($(value_of "$file")))
    if [[ $had -eq $wanted ]]; then
        as_is "$label: $had"
        return
    fi
    remember pages "${file#"$ROOT"}" "$had"
    put "$wanted" "$file"
    if [[ -z $DRY_RUN && $(($(value_of "$file"))) -lt $wanted ]]; then
        # Fragmented memory is often cured by moving pages together once.
        [[ ! -w $ROOT/proc/sys/vm/compact_memory ]] || put 1 "$ROOT/proc/sys/vm/compact_memory"
        put "$wanted" "$file"
    fi
    got=$wanted
    [[ -n $DRY_RUN ]] || got=$(($(value_of "$file")))
    [[ $got -eq $had ]] || changed "$label: $had -> $got"
    if [[ $got -lt $wanted ]]; then
        available=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' "$ROOT/proc/meminfo")
        die $E_FAILED "$label: asked for $wanted, the kernel granted $got; memory is fragmented or too little is free \
(${available:-unknown} MiB available): stop programs that hold memory and try again, ask for fewer with --pages, \
or reserve them at boot with hugepages=$wanted on the kernel's command line"
    elif [[ $got -gt $wanted ]]; then
        die $E_FAILED "$label: $got remain instead of $wanted, because processes use them; stop those and try again"
    fi
}

rebind() { # rebind <address> <driver_override, empty for none> [no-probe]
    local device="$SYS/bus/pci/devices/$1"
    put "$2" "$device/driver_override"
    if [[ -L $device/driver ]]; then
        put "$1" "$device/driver/unbind"
        [[ -n $DRY_RUN ]] || settles has_driver "$1" -
    fi
    [[ ${3:-} == no-probe ]] || put "$1" "$SYS/bus/pci/drivers_probe"
}

bind_nic() {
    local address=$1 former override group
    former=$(driver_of "$address")
    group=$(group_of "$address")
    if [[ $former == vfio-pci ]]; then
        as_is "$address: bound to vfio-pci (IOMMU group $group)"
        return
    fi
    override=$(value_of "$SYS/bus/pci/devices/$address/driver_override")
    [[ -n $override && $override != '(null)' ]] || override=-
    remember nic "$address" "$former" "$override"
    rebind "$address" vfio-pci
    if [[ -z $DRY_RUN ]] && ! settles has_driver "$address" vfio-pci; then
        restore_nic "$address" "$former" "$override"
        forget nic "$address"
        die $E_FAILED "$address: vfio-pci did not take it, given back to ${former/#-/no driver}; see the last lines of dmesg"
    fi
    changed "$address: driver ${former/#-/none} -> vfio-pci (IOMMU group $group)"
}

# Gives a NIC back to the driver it had (- for none, ? if nobody knows: then the kernel chooses).
restore_nic() { # restore_nic <address> <former driver> <former driver_override or ->
    local address=$1 former=$2 override=${3/#-/}
    if [[ $former == - ]]; then
        rebind "$address" "$override" no-probe
        return
    fi
    rebind "$address" "$override"
    [[ -z $DRY_RUN && $former != '?' ]] || return 0
    if ! settles lacks_driver "$address" -; then
        # Not the one that a probe finds by itself: ask for it by name.
        [[ ! -e $SYS/bus/pci/drivers/$former/bind ]] || put "$address" "$SYS/bus/pci/drivers/$former/bind"
        settles has_driver "$address" "$former" ||
            warn "$address: the driver $former did not take it back; modprobe $former, then echo $address > /sys/bus/pci/drivers_probe"
    fi
}

unbind_nic() {
    local address=$1 former override record driver group holders
    if [[ $(driver_of "$address") != vfio-pci ]]; then
        as_is "$address: not bound to vfio-pci (driver $(driver_of "$address" | sed 's/^-$/none/'))"
        forget nic "$address"
        return
    fi
    group=$(group_of "$address")
    holders=$(holders_of_group "$group")
    # The kernel would let the writer wait until the last of them closes the device.
    [[ -z $holders || -n $FORCE ]] ||
        die $E_REFUSED "$address: /dev/vfio/$group is held open by process ${holders% }; stop it, or use --force and wait for it"
    record=$(grep -sF "nic $address " "$STATE" || echo "nic $address ? -")
    read -r _ _ former override <<<"$record"
    forget owner "/dev/vfio/$group"
    restore_nic "$address" "$former" "$override"
    forget nic "$address"
    if [[ -n $DRY_RUN ]]; then
        former=${former/#-/none}
        changed "$address: driver vfio-pci -> ${former/\?/the one the kernel chooses}"
        return
    fi
    [[ $former != '?' ]] || settles lacks_driver "$address" - || true
    driver=$(driver_of "$address")
    changed "$address: driver vfio-pci -> ${driver/#-/none}"
}

give_group() { # give_group <address> <user>
    local group node owner
    group=$(group_of "$1")
    node="$ROOT/dev/vfio/$group"
    # udev may set the owner itself when the node appears; ours comes after that.
    [[ -n $DRY_RUN || -n $ROOT ]] || udevadm settle --timeout=5 2>/dev/null || true
    if [[ -z $DRY_RUN ]] && ! settles test -e "$node"; then
        die $E_FAILED "$1: no device node $node although the NIC is bound; is devtmpfs mounted on /dev?"
    fi
    owner=$(stat -c '%u:%g' "$node" 2>/dev/null || echo 0:0)
    if [[ ${owner%:*} == "$(id -u "$2")" ]]; then
        as_is "/dev/vfio/$group: belongs to $2"
        return
    fi
    remember owner "/dev/vfio/$group" "$owner"
    [[ -n $DRY_RUN ]] || chown "$2" "$node"
    changed "/dev/vfio/$group: owner $(stat -c %U "$node" 2>/dev/null || echo root) -> $2"
}

raise_memlock() { # raise_memlock <user>
    local line="$1 - memlock unlimited"
    if grep -qsxF "$line" "$LIMITS"; then
        as_is "memlock of $1: unlimited by ${LIMITS#"$ROOT"}"
        return
    fi
    if [[ -e $LIMITS ]] && ! grep -qxF "$LIMITS_MARK" "$LIMITS"; then
        die $E_FAILED "${LIMITS#"$ROOT"} exists and is not ours; add the line '$line' to it yourself"
    fi
    remember limits "${LIMITS#"$ROOT"}" -
    if [[ -z $DRY_RUN ]]; then
        mkdir -p "${LIMITS%/*}"
        [[ -e $LIMITS ]] || echo "$LIMITS_MARK" >"$LIMITS"
        echo "$line" >>"$LIMITS"
    fi
    changed "memlock of $1: unlimited from the next login on (${LIMITS#"$ROOT"}; a systemd service needs LimitMEMLOCK=infinity instead)"
}

undo_all() {
    local kind key former lines=() i failed=0
    # The memlock file outlives a reboot, the state does not.
    if [[ -e $LIMITS ]] && grep -qxF "$LIMITS_MARK" "$LIMITS"; then
        [[ -n $DRY_RUN ]] || rm -f "$LIMITS"
        forget limits "${LIMITS#"$ROOT"}"
        changed "${LIMITS#"$ROOT"}: removed"
    elif [[ ! -s $STATE ]]; then
        as_is "nothing to undo: ${STATE#"$ROOT"} does not exist"
    fi
    [[ ! -f $STATE ]] || mapfile -t lines <"$STATE"
    for ((i = ${#lines[@]} - 1; i >= 0; i--)); do
        read -r kind key former _ <<<"${lines[i]}"
        case $kind in
            pages)
                # A subshell each, so that what cannot be undone now does not keep the rest from it.
                if (set_pages "$ROOT$key" "$former" "$(pages_label "$key")"); then forget pages "$key"; else failed=1; fi
                ;;
            nic) (unbind_nic "$key") || failed=1 ;;
            owner)
                if [[ -e $ROOT$key ]]; then
                    [[ -n $DRY_RUN ]] || chown "$former" "$ROOT$key"
                    changed "$key: owner -> $former"
                fi
                forget owner "$key"
                ;;
            limits) forget limits "$key" ;; # somebody removed the file already
        esac
    done
    [[ $failed -eq 0 ]] || die $E_FAILED "not everything could be undone; when the causes above are gone, run --undo again"
}

# ---- before anything is changed -------------------------------------------------------------------------------

# The address in full, in lower case; complains with what the user may have meant.
pci_address() { # pci_address <option> <argument>
    local address=${2,,} path
    [[ $address == ????:* ]] || address="0000:$address"
    if [[ ! $address =~ $PCI_ADDRESS ]]; then
        if [[ $2 != */* && -e $SYS/class/net/$2 ]]; then
            for path in $(network_devices); do
                [[ " $(interfaces_of "$path") " != *" $2 "* ]] ||
                    die $E_USAGE "$1 $2: that is an interface; its address is $path: $1 $path"
            done
            die $E_USAGE "$1 $2: that interface is not a PCI device; hugepage-setup.sh --status lists those that are"
        fi
        die $E_USAGE "$1 $2: not a PCI address such as 0000:03:00.0; hugepage-setup.sh --status lists the NICs"
    fi
    [[ -d $SYS/bus/pci/devices/$address ]] ||
        die $E_USAGE "$1 $2: there is no PCI device $address; hugepage-setup.sh --status lists the NICs"
    is_network "$address" ||
        die $E_USAGE "$1 $2: $address is not a network device (class $(value_of "$SYS/bus/pci/devices/$address/class")); hugepage-setup.sh --status lists those that are"
    echo "$address"
}

check_bindable() {
    local address=$1 use group blockers list
    [[ $(driver_of "$address") != vfio-pci ]] || return 0
    if [[ -z $FORCE ]]; then
        command -v ip >/dev/null || die $E_FAILED "$address: cannot tell whether it is in use without the program ip; apt-get install iproute2"
        use=$(use_of "$address")
        [[ -z $use ]] || die $E_REFUSED "$address: in use, $use; taking it would cut this machine off. Choose another NIC, or use --force if you reach the machine another way"
    fi
    group=$(group_of "$address")
    [[ $group != - ]] || die $E_FAILED "$address: it is in no IOMMU group, so vfio-pci cannot isolate it: $(iommu_advice)"
    blockers=$(group_blockers "$group" "${BIND[@]}")
    if [[ -n $blockers ]]; then
        list=$(awk '{ printf "%s%s (driver %s)", sep, $1, $2; sep = ", " }' <<<"$blockers")
        die $E_FAILED "$address: IOMMU group $group is not viable, because the kernel still drives $list; \
give vfio-pci every device of the group in one call (--bind $address --bind $(awk 'NR == 1 { print $1 }' <<<"$blockers")), \
unload the other's driver, or put the NIC into another slot"
    fi
}

load_vfio_pci() {
    [[ -z $DRY_RUN && ! -d $SYS/bus/pci/drivers/vfio-pci ]] || return 0
    modprobe vfio-pci 2>/dev/null || true
    [[ -d $SYS/bus/pci/drivers/vfio-pci ]] ||
        die $E_FAILED "the kernel has no driver vfio-pci and modprobe vfio-pci failed; this kernel ($(uname -r)) is built without CONFIG_VFIO_PCI or its modules are not installed"
    changed 'module vfio-pci: loaded (--undo leaves it, it does no harm)'
}

check_pages() {
    [[ $PAGES =~ ^[0-9]{1,8}$ ]] || die $E_USAGE "--pages $PAGES: not a number of pages from 0 to 99999999"
    PAGES=$((10#$PAGES))
    if [[ -n $NODE && ! -d $SYS/devices/system/node/node$NODE ]]; then
        die $E_USAGE "--node $NODE: there is no such NUMA node; nodes here: $(names_in node "$SYS"/devices/system/node/node[0-9]*)"
    fi
    [[ -e $(pages_dir "$SIZE" "$NODE")/nr_hugepages ]] ||
        die $E_USAGE "--size $SIZE: this processor or kernel has no pages of that size; sizes here: $(names_in hugepages- "$SYS"/kernel/mm/hugepages/*)"
}

# ---- looking --------------------------------------------------------------------------------------------------

memlock_words() {
    local kib
    kib=$(ulimit -l)
    if [[ $kib == unlimited ]]; then echo unlimited; else echo "$((kib / 1024)) MiB"; fi
}

device_name() { # what lspci calls it, or its ids
    local name=''
    [[ -n $ROOT ]] || name=$(lspci -s "$1" 2>/dev/null | sed 's/^[^ ]* [^:]*: //; s/ (rev [0-9a-f]*)$//') || true
    [[ -n $name ]] || name="$(value_of "$SYS/bus/pci/devices/$1/vendor"):$(value_of "$SYS/bus/pci/devices/$1/device")"
    echo "$name"
}

show_status() {
    local size node dir address use color count=0 interface
    printf '%s%-12s %-6s %-6s %8s %8s%s\n' "$BOLD" Hugepages size node total free "$PLAIN"
    for size in 2M 1G; do
        for node in $(names_in node "$SYS"/devices/system/node/node[0-9]*); do
            dir=$(pages_dir "$size" "$node")
            [[ -d $dir ]] || continue
            color=$DIM
            [[ $(value_of "$dir/nr_hugepages") == 0 ]] || color=$GREEN
            printf '%-12s %s%-6s %-6s %8s %8s%s\n' '' "$color" "$size" "$node" \
                "$(value_of "$dir/nr_hugepages")" "$(value_of "$dir/free_hugepages")" "$PLAIN"
        done
    done
    printf '%s%-12s%s %s for this shell' "$BOLD" Memlock "$PLAIN" "$(memlock_words)"
    [[ $EUID -ne 0 ]] || printf '; root is not bound by it'
    [[ ! -r $LIMITS ]] || printf '; %s: %s' "${LIMITS#"$ROOT"}" "$(awk '!/^#/ { printf "%s%s %s", sep, $1, $4; sep = ", " }' "$LIMITS")"
    printf '\n%s%-12s%s ' "$BOLD" IOMMU "$PLAIN"
    if iommu_present; then
        printf '%spresent%s, %s groups\n' "$GREEN" "$PLAIN" "$(names_in '' "$SYS"/kernel/iommu_groups/* | wc -w)"
    else
        printf '%sabsent%s\n' "$YELLOW" "$PLAIN"
        fold -s -w $((WIDTH - 13)) <<<"$(iommu_advice)" | sed 's/^/             /'
    fi
    printf '%s%-12s%s ' "$BOLD" vfio-pci "$PLAIN"
    if [[ -d $SYS/bus/pci/drivers/vfio-pci ]]; then printf '%sloaded%s\n' "$GREEN" "$PLAIN"; else printf 'not loaded; --bind loads it\n'; fi
    printf '%sNICs%s\n' "$BOLD" "$PLAIN"
    for address in $(network_devices); do
        [[ $count -gt 0 ]] || printf '%s  %-12s  %-10s  %-10s  %-5s  %-26s  %s%s\n' "$DIM" address interface driver group 'in use' device "$PLAIN"
        count=$((count + 1))
        interface=$(interfaces_of "$address")
        color='' use=no
        if has_driver "$address" vfio-pci; then
            color=$GREEN use='no, ready for vfio:'
        elif ! command -v ip >/dev/null; then
            use='unknown without program ip'
        else
            use=$(use_of "$address")
            [[ -z $use ]] || color=$YELLOW
            use=${use#"$interface "}
        fi
        printf '%s%s%s\n' "$color" "$(printf '  %-12s  %-10s  %-10s  %-5s  %-26s  %s' "$address" "${interface:--}" \
            "$(driver_of "$address")" "$(group_of "$address")" "${use:-no}" "$(device_name "$address")" | cut -c "1-$WIDTH")" "$PLAIN"
    done
    [[ $count -gt 0 ]] || echo '  none on the PCI bus; bywash demo needs none'
}

# One line of --check; a failed one makes the whole fail.
READY=1
need() { # need <0 if it is met> <what is> <the fix>
    if [[ $1 -eq 0 ]]; then
        printf '%s%-8s%s %s\n' "$GREEN" ok "$PLAIN" "$2"
    else
        printf '%s%-8s%s %s; %s\n' "$RED" missing "$PLAIN" "$2" "$3"
        READY=0
    fi
}

check_ready() {
    local free dir where='' limit address candidates bound=() group blockers met
    dir=$(pages_dir "$SIZE" "$NODE")
    [[ -z $NODE ]] || where=" on node $NODE"
    free=$(($(value_of "$dir/free_hugepages")))
    need $((free < ${PAGES:-1})) "$free of ${PAGES:-1} hugepages of $SIZE free$where" "run ./hugepage-setup.sh --pages ${PAGES:-1024} --size $SIZE"

    # The region is locked page by page while a NIC may reach it, so the limit must cover all of it.
    limit=$(ulimit -l) met=1
    [[ $EUID -ne 0 && $limit != unlimited && $limit -lt $((${PAGES:-1} * $(size_kib "$SIZE"))) ]] || met=0
    need $met "memlock $(memlock_words)" "run ./hugepage-setup.sh --memlock --user $(id -un), then log in again"

    met=0; iommu_present || met=1
    need $met "IOMMU $([[ $met -eq 0 ]] && echo present || echo absent)" "$(iommu_advice)"

    met=0; [[ -d $SYS/bus/pci/drivers/vfio-pci ]] || met=1
    need $met "driver vfio-pci $([[ $met -eq 0 ]] && echo loaded || echo 'not loaded')" 'run ./hugepage-setup.sh --bind ADDR, or modprobe vfio-pci'

    for address in "${BIND[@]}"; do
        has_driver "$address" vfio-pci ||
            need 1 "$address is bound to $(driver_of "$address" | sed 's/^-$/no driver/')" "run ./hugepage-setup.sh --bind $address"
    done
    candidates=("${BIND[@]}")
    [[ ${#BIND[@]} -gt 0 ]] || mapfile -t candidates < <(network_devices)
    for address in "${candidates[@]}"; do
        ! has_driver "$address" vfio-pci || bound+=("$address")
    done
    [[ ${#bound[@]} -gt 0 || ${#BIND[@]} -gt 0 ]] || need 1 'no NIC is bound to vfio-pci' 'see ./hugepage-setup.sh --status, then --bind ADDR'
    for address in "${bound[@]}"; do
        group=$(group_of "$address")
        blockers=$(group_blockers "$group" | tr '\n' ' ')
        if [[ -z $blockers ]]; then
            need 0 "$address: IOMMU group $group is viable" ''
        else
            need 1 "$address: IOMMU group $group is not viable, the kernel drives ${blockers% }" 'bind those as well, or unload their driver'
        fi
        met=0; [[ -r $ROOT/dev/vfio/$group && -w $ROOT/dev/vfio/$group ]] || met=1
        need $met "$address: /dev/vfio/$group $([[ $met -eq 0 ]] && echo 'may be opened' || echo "may not be opened by $(id -un)")" "run ./hugepage-setup.sh --user $(id -un)"
    done
    [[ $READY -eq 1 ]] || exit $E_FAILED
}

# ---- the command line -----------------------------------------------------------------------------------------

PAGES='' SIZE=2M NODE='' USER_NAME='' MEMLOCK='' FORCE='' MODE=change
BIND=() UNBIND=()

parse() {
    local option argument
    [[ $# -gt 0 ]] || { usage >&2; exit $E_USAGE; }
    while [[ $# -gt 0 ]]; do
        option=$1
        shift
        case $option in
            --pages | --size | --node | --user | --bind | --unbind)
                [[ $# -gt 0 ]] || die $E_USAGE "$option needs a value; see --help"
                argument=$1
                shift
                ;;&
            --pages) PAGES=$argument ;;
            --size)
                SIZE=${argument^^}
                [[ $SIZE == 2M || $SIZE == 1G ]] || die $E_USAGE "--size $argument: neither 2M nor 1G"
                ;;
            --node)
                [[ $argument =~ ^[0-9]{1,4}$ ]] || die $E_USAGE "--node $argument: not a NUMA node's number"
                NODE=$((10#$argument))
                ;;
            --user)
                id -u -- "$argument" >/dev/null 2>&1 || die $E_USAGE "--user $argument: there is no such user on this machine (getent passwd lists them)"
                USER_NAME=$(id -un -- "$argument")
                ;;
            --bind)
                argument=$(pci_address --bind "$argument")
                BIND+=("$argument")
                ;;
            --unbind)
                argument=$(pci_address --unbind "$argument")
                UNBIND+=("$argument")
                ;;
            --memlock) MEMLOCK=1 ;;
            --force) FORCE=1 ;;
            --dry-run) DRY_RUN=1 VERB=would ;;
            --status | --check | --undo)
                [[ $MODE == change ]] || die $E_USAGE "$option and --$MODE exclude each other"
                MODE=${option#--}
                ;;
            -h | --help)
                usage
                exit 0
                ;;
            *) die $E_USAGE "unknown option $option; see --help" ;;
        esac
    done
    case $MODE in
        status | undo) [[ -z "$PAGES$NODE$USER_NAME$MEMLOCK${BIND[*]-}${UNBIND[*]-}" ]] || die $E_USAGE "--$MODE goes with no other change; run it alone" ;;
        check) [[ -z "$USER_NAME$MEMLOCK${UNBIND[*]-}" ]] || die $E_USAGE '--check goes only with --pages, --size, --node and --bind' ;;
    esac
}

change() {
    local address pages users_nics=()
    [[ -n "$PAGES$USER_NAME$MEMLOCK${BIND[*]-}${UNBIND[*]-}" ]] || die $E_USAGE 'nothing to do; name --pages, --bind, --unbind, --user or --memlock, see --help'
    if [[ -n $MEMLOCK && -z $USER_NAME ]]; then
        die $E_USAGE "--memlock: for which user? add --user ${SUDO_USER:-NAME}"
    fi
    for address in "${UNBIND[@]}"; do
        [[ " ${BIND[*]-} " != *" $address "* ]] || die $E_USAGE "$address is named by both --bind and --unbind"
    done
    [[ -z $PAGES ]] || check_pages
    for address in "${BIND[@]}"; do check_bindable "$address"; done
    if [[ -n $USER_NAME ]]; then
        users_nics=("${BIND[@]}")
        if [[ ${#BIND[@]} -eq 0 ]]; then
            for address in $(network_devices); do ! has_driver "$address" vfio-pci || users_nics+=("$address"); done
        fi
        [[ ${#users_nics[@]} -gt 0 || -n $MEMLOCK ]] ||
            die $E_FAILED "--user $USER_NAME: nothing to give, no NIC is bound to vfio-pci; add --bind ADDR or --memlock"
    fi

    [[ ${#BIND[@]} -eq 0 ]] || load_vfio_pci
    for address in "${UNBIND[@]}"; do unbind_nic "$address"; done
    if [[ -n $PAGES ]]; then
        pages=$(pages_dir "$SIZE" "$NODE")/nr_hugepages
        set_pages "$pages" "$PAGES" "$(pages_label "$pages")"
    fi
    for address in "${BIND[@]}"; do bind_nic "$address"; done
    for address in "${users_nics[@]}"; do give_group "$address" "$USER_NAME"; done
    [[ -z $MEMLOCK ]] || raise_memlock "$USER_NAME"
    if [[ -z $DRY_RUN && (-s $STATE || -e $LIMITS) ]]; then
        printf '%s%-8s %s%s\n' "$DIM" undo "${BYWASH_UNDO:-sudo $0 --undo}" "$PLAIN"
    fi
}

main() {
    PATH="$PATH:/usr/sbin:/sbin"
    parse "$@"
    case $MODE in
        status) show_status ;;
        check)
            [[ -z $PAGES ]] || check_pages
            check_ready
            ;;
        *)
            if [[ $EUID -ne 0 && -z $DRY_RUN && -z $ROOT ]]; then
                die $E_NOT_ROOT "only root may change this; run it with sudo, or add --dry-run to see what it would do"
            fi
            if [[ -z $DRY_RUN ]]; then
                # Two of us at once would lose one's record of what to undo.
                mkdir -p "${STATE%/*}"
                exec 9>"${STATE%/*}/lock"
                flock -w 30 9 || die $E_FAILED "another hugepage-setup.sh has been running for 30 s; wait for it to end"
            fi
            if [[ $MODE == undo ]]; then undo_all; else change; fi
            ;;
    esac
}

main "$@"
