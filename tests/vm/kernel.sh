#!/usr/bin/env bash
# Puts Debian's kernel for the test guest under CACHE (downloaded and unpacked, never installed) and prints the
# directory that holds it:
#
#   vmlinuz         the kernel
#   modules/NN-x.ko the modules the guest loads, in the order of their names
#
# usage: kernel.sh CACHE
#
# A kernel that is already there is used as it is: delete CACHE to get a newer one.
set -euo pipefail

cache=$1
wanted=(vfio_iommu_type1 vfio-pci virtio_net virtio_pci)

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/.lock"
flock 9

for ready in "$cache"/linux-image-*/modules; do
  [ -d "$ready" ] || continue
  dirname "$ready"
  exit 0
done

# linux-image-amd64 is empty: the kernel is the package it depends on.
package=$(apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ && !p { p = $2 } END { print p }')
if [ -z "$package" ]; then
  echo "apt knows no kernel package: run 'apt-get update' as root" >&2
  exit 1
fi
release=${package#linux-image-}

work=$(mktemp -d "$cache/.unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download -o APT::Sandbox::User=root -qq "$package" >&2)
dpkg -x "$work"/linux-image-*.deb "$work/root"
depmod -b "$work/root" "$release"

mkdir -p "$work/out/modules"
cp "$work/root/boot/vmlinuz-$release" "$work/out/vmlinuz"
for module in "${wanted[@]}"; do
  modprobe -d "$work/root" -S "$release" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' > "$work/order"
number=10
while read -r file; do
  name=$(basename "$file")
  case "$name" in
    *.ko)     cp "$file" "$work/out/modules/$number-$name" ;;
    *.ko.xz)  xz -dc "$file" > "$work/out/modules/$number-${name%.xz}" ;;
    *.ko.zst) zstd -dcq "$file" > "$work/out/modules/$number-${name%.zst}" ;;
    *)        echo "module in an unknown compression: $file" >&2; exit 1 ;;
  esac
  number=$((number + 1))
done < "$work/order"

mv "$work/out" "$cache/$package"
echo "$cache/$package"
