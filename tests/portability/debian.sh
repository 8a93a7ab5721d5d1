#!/usr/bin/env bash
# A Debian 13 in a folder, for its newer Mesa with compilers of GPUs that are not there, and for Wine. Needs root.
#   debian.sh make                   5 minutes and 2.5 GB the first time, then nothing
#   debian.sh run COMMAND...         runs a command in it; the repository, /tmp and what MOUNT lists keep their paths
# QLLAMA_DEBIAN13 names the folder; target/portability/debian13 where it does not.
set -euo pipefail
. "$(dirname "$0")/common.sh"
folder=${QLLAMA_DEBIAN13:-$work/debian13}

inside() {
  unshare -m bash -euc '
    folder=$1; shift
    for mount in /proc /dev; do mount --rbind "$mount" "$folder$mount"; done
    while [ "$1" != -- ]; do mkdir -p "$folder$1"; mount --rbind "$1" "$folder$1"; shift; done; shift
    exec chroot "$folder" /usr/bin/env HOME=/tmp XDG_RUNTIME_DIR=/tmp DEBIAN_FRONTEND=noninteractive \
      PATH=/usr/lib/wine:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin "$@"' _ "$folder" "$@"
}

# Runs a step once.
once() {
  [ -e "$folder/etc/qllama-$1" ] || { say "$2"; "$1"; touch "$folder/etc/qllama-$1"; }
}

base() {
  apt debootstrap=debootstrap
  local mirror
  # The machine's own mirror, where it says so; of the files that may say it, some are not there.
  mirror=$(sed -nE 's/^(URIs:|deb) *(https?:[^ ]*\/debian\/?)( .*)?$/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1 || true)
  debootstrap --variant=minbase --include=libvulkan1,mesa-vulkan-drivers,mesa-drm-shim,ca-certificates trixie "$folder" \
    "${mirror:-http://deb.debian.org/debian}" >/dev/null
  cp /etc/resolv.conf /etc/hosts "$folder/etc/"
}

# Mesa's stub of Intel's kernel driver, which Debian leaves out of mesa-drm-shim.
intel() {
  inside -- bash -euc '
    sed "s/^deb /deb-src /" /etc/apt/sources.list >/etc/apt/sources.list.d/sources.list
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends dpkg-dev meson ninja-build gcc g++ python3-mako python3-yaml \
      python3-packaging libdrm-dev bison flex pkg-config zlib1g-dev libexpat1-dev glslang-tools libelf-dev xz-utils >/dev/null
    cd /root
    apt-get source -qq mesa >/dev/null 2>&1
    cd mesa-*/
    meson setup build -Dvulkan-drivers=intel_hasvk -Dgallium-drivers= -Dtools=drm-shim,intel -Dplatforms= -Dllvm=disabled \
      -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dopengl=false -Dgles1=disabled -Dgles2=disabled -Dvideo-codecs= \
      -Dbuildtype=release -Dvalgrind=disabled -Dlibunwind=disabled >/dev/null
    ninja -C build src/intel/tools/libintel_noop_drm_shim.so >/dev/null
    cp build/src/intel/tools/libintel_noop_drm_shim.so /usr/lib/x86_64-linux-gnu/
    rm -r /root/mesa*'
}

wine() {
  inside -- bash -euc '
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends wine wine64 g++-mingw-w64-x86-64-win32 xvfb xauth libgl1 libgl1-mesa-dri \
      libglx-mesa0 libegl1 libx11-6 libxext6 libxrandr2 libxrender1 libxcursor1 libxi6 libxinerama1 libxcomposite1 \
      libxfixes3 libxxf86vm1 >/dev/null'
}

[ "$(id -u)" = 0 ] || { say 'chroot needs root'; exit 1; }
verb=${1:-}
shift || true
case $verb in
  make)
    once base 'bringing a Debian 13: 1 to 2 minutes'
    once intel "building Mesa's stub of Intel's kernel driver: 1 to 4 minutes"
    once wine 'installing Wine: a minute'
    ;;
  run)
    # shellcheck disable=SC2086
    inside "$root" /tmp ${MOUNT:-} -- "$@"
    ;;
  *)
    sed -n '2,5s/^# \?//p' "$0" >&2
    exit 2
    ;;
esac
