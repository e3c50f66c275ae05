#!/usr/bin/env bash
#
# A machine made of files, for the tests of hugepage-setup.sh: sourced by run.sh.
#
# fake_machine DIR builds it; background readers of the FIFOs among its files act as the kernel does when a
# driver's bind or unbind or the bus's drivers_probe is written. fake_machine_off ends them.
#
#   NIC            interface  group  beside it in the group
#   0000:01:00.0   eth0       11     -                          the default route is here
#   0000:02:00.0   eth1       12     a bridge port (pcieport)   free: link-local address only
#   0000:03:00.0   eth2       13     0000:03:00.1 (eth3)        a two-port card, both free
#   0000:04:00.0   eth4       14     0000:04:00.1 (nvme)        group not viable
#   0000:05:00.0   eth5       none   -                          no IOMMU in front of it
#   0000:06:00.0   eth6       16     -                          has an address
#   0000:07:00.0   eth7       17     -                          below bridge br0, which has an address
#   0000:08:00.0   none       18     -                          no driver at all
#   0000:09:00.0   eth9       19     -                          vfio-pci does not take it
# and 0000:04:00.1, a disk.
set -euo pipefail

KERNEL_PIDS=()

fake_device() { # fake_device <address> <class> <driver or -> <group or -> <interface or ->
    local device="$M/sys/bus/pci/devices/$1"
    mkdir -p "$device"
    echo "$2" >"$device/class"
    echo 0x1af4 >"$device/vendor"
    echo 0x1041 >"$device/device"
    echo '(null)' >"$device/driver_override"
    if [[ $4 != - ]]; then
        mkdir -p "$M/sys/kernel/iommu_groups/$4/devices"
        ln -s "../../../kernel/iommu_groups/$4" "$device/iommu_group"
        ln -s "../../../../bus/pci/devices/$1" "$M/sys/kernel/iommu_groups/$4/devices/$1"
    fi
    echo "$3 $5" >"$M/kernel/native/$1"
    [[ $3 == - ]] || kernel_attach "$1" "$3"
}

kernel_attach() { # kernel_attach <address> <driver>
    local device="$M/sys/bus/pci/devices/$1" interface
    read -r _ interface <"$M/kernel/native/$1"
    if [[ $2 == vfio-pci ]]; then
        : >"$M/dev/vfio/$(basename "$(readlink "$device/iommu_group")")"
    elif [[ $interface != - ]]; then
        # A virtio NIC's interface hangs one level deeper than another NIC's.
        mkdir -p "$device/virtio0/net/$interface" "$M/sys/class/net/$interface"
    fi
    # Last, because it is what the script waits for.
    ln -s "../../drivers/$2" "$device/driver"
}

kernel_detach() { # kernel_detach <address>
    local device="$M/sys/bus/pci/devices/$1"
    [[ -L $device/driver ]] || return 0
    if [[ $(readlink "$device/driver") == */vfio-pci ]]; then
        rm -f "$M/dev/vfio/$(basename "$(readlink "$device/iommu_group")")"
    fi
    rm -rf "$device/virtio0"
    rm "$device/driver"
}

kernel_probe() { # kernel_probe <address>
    local driver override
    [[ ! -L $M/sys/bus/pci/devices/$1/driver ]] || return 0
    override=$(<"$M/sys/bus/pci/devices/$1/driver_override")
    read -r driver _ <"$M/kernel/native/$1"
    [[ -z $override || $override == '(null)' ]] || driver=$override
    if [[ $driver == vfio-pci && $1 == 0000:09:00.0 ]]; then return 0; fi
    [[ $driver == - || ! -d $M/sys/bus/pci/drivers/$driver ]] || kernel_attach "$1" "$driver"
}

# Obeys what is written to one FIFO.
kernel_reader() { # kernel_reader <fifo> <function> [driver]
    local line
    mkfifo "$1"
    # Open for both ways, so that the reader sees no end of file between two writers.
    exec {fd}<>"$1"
    while read -r line; do
        [[ ! $line =~ ^[0-9a-f:.]+$ ]] || "$2" "$line" "${@:3}"
    done <&"$fd" &
    KERNEL_PIDS+=($!)
    exec {fd}>&-
}

fake_driver() {
    mkdir -p "$M/sys/bus/pci/drivers/$1"
    kernel_reader "$M/sys/bus/pci/drivers/$1/bind" kernel_attach "$1"
    kernel_reader "$M/sys/bus/pci/drivers/$1/unbind" kernel_detach
}

fake_machine() { # fake_machine <empty folder>
    M=$1
    local size
    mkdir -p "$M"/{run,etc/security,dev/vfio,kernel/native,kernel/address,proc/sys/vm,bin} "$M"/sys/{bus/pci/{devices,drivers},class/net,kernel/iommu_groups}
    for size in 2048kB 1048576kB; do
        mkdir -p "$M/sys/kernel/mm/hugepages/hugepages-$size" "$M/sys/devices/system/node/"node{0,1}"/hugepages/hugepages-$size"
    done
    for size in "$M/sys/kernel/mm/hugepages"/* "$M/sys/devices/system/node/"node*/hugepages/*; do
        echo 0 >"$size/nr_hugepages"
        echo 0 >"$size/free_hugepages"
    done
    echo 'vendor_id : GenuineIntel' >"$M/proc/cpuinfo"
    echo 'MemAvailable:    2048000 kB' >"$M/proc/meminfo"
    : >"$M/proc/sys/vm/compact_memory"

    for driver in virtio-pci pcieport nvme vfio-pci; do fake_driver "$driver"; done
    # Not loaded yet; the modprobe below does that.
    mv "$M/sys/bus/pci/drivers/vfio-pci" "$M/kernel/vfio-pci"
    kernel_reader "$M/sys/bus/pci/drivers_probe" kernel_probe

    fake_device 0000:01:00.0 0x020000 virtio-pci 11 eth0
    fake_device 0000:02:00.0 0x020000 virtio-pci 12 eth1
    fake_device 0000:00:1c.0 0x060400 pcieport 12 -
    fake_device 0000:03:00.0 0x020000 virtio-pci 13 eth2
    fake_device 0000:03:00.1 0x020000 virtio-pci 13 eth3
    fake_device 0000:04:00.0 0x020000 virtio-pci 14 eth4
    fake_device 0000:04:00.1 0x010802 nvme 14 -
    fake_device 0000:05:00.0 0x020000 virtio-pci - eth5
    fake_device 0000:06:00.0 0x020000 virtio-pci 16 eth6
    fake_device 0000:07:00.0 0x020000 virtio-pci 17 eth7
    fake_device 0000:08:00.0 0x020000 - 18 -
    fake_device 0000:09:00.0 0x020000 virtio-pci 19 eth9
    mkdir -p "$M/sys/class/net/br0"
    : >"$M/sys/class/net/eth7/upper_br0"

    # What `ip` prints, and `modprobe` does, on this machine.
    echo 'default via 192.0.2.1 dev eth0 proto dhcp' >"$M/kernel/routes-4"
    : >"$M/kernel/routes-6"
    echo '3: eth1    inet6 fe80::1/64 scope link' >"$M/kernel/address/eth1"
    echo '7: eth6    inet 198.51.100.7/24 scope global eth6' >"$M/kernel/address/eth6"
    echo '9: br0    inet6 2001:db8::9/64 scope global' >"$M/kernel/address/br0"
    cat >"$M/bin/ip" <<'IP'
#!/usr/bin/env bash
set -euo pipefail
kernel="$(dirname "$0")/../kernel"
case "$*" in
    '-o -4 route show default table all') cat "$kernel/routes-4" ;;
    '-o -6 route show default table all') cat "$kernel/routes-6" ;;
    '-o addr show dev '*' up') [[ ! -e $kernel/address/$5 ]] || cat "$kernel/address/$5" ;;
    *) echo "the fake ip does not know: $*" >&2; exit 1 ;;
esac
IP
    cat >"$M/bin/modprobe" <<'MODPROBE'
#!/usr/bin/env bash
set -euo pipefail
machine="$(dirname "$0")/.."
[[ $1 == vfio-pci && -d $machine/kernel/vfio-pci ]] && mv "$machine/kernel/vfio-pci" "$machine/sys/bus/pci/drivers/vfio-pci"
MODPROBE
    chmod +x "$M/bin/ip" "$M/bin/modprobe"
}

fake_machine_off() {
    local pid
    for pid in "${KERNEL_PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
    KERNEL_PIDS=()
    wait
}

# The whole machine as text: every path with its kind, its content or target, and its owner.
fake_machine_picture() {
    (
        cd "$M"
        find sys etc dev -printf '%y %U %p -> %l\n' | sort
        find sys etc dev -type f -print0 | sort -z | xargs -0 grep -H ''
    )
}
