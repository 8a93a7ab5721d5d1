#!/usr/bin/env bash
# Makes sure that a Vulkan driver is there, and what the layer of tests/faults is built with; where something is not,
# installs it on Debian and Ubuntu, Mesa's software driver for one.
set -euo pipefail
[ "$(uname -s)" = Linux ] || exit 0
loader() { ldconfig -p 2>/dev/null | grep -q libvulkan.so.1 || [ -n "$(find /usr/lib /usr/local/lib -name 'libvulkan.so.1' -print -quit 2>/dev/null)" ]; }
driver() { compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null || compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null || [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; }
layers() { command -v cc >/dev/null && echo '#include <vulkan/vk_layer.h>' | cc -E -x c - >/dev/null 2>&1; }
packages=''
layers || packages='gcc libc6-dev libvulkan-dev'
loader && driver || packages="libvulkan1 mesa-vulkan-drivers $packages"
[ -n "$packages" ] || exit 0
if ! command -v apt-get >/dev/null; then
  # Without the layer's parts one test is skipped.
  loader && driver && exit 0
  echo "No Vulkan driver was found. Install one; Mesa's software driver is enough (on Debian and Ubuntu: $packages)." >&2
  exit 1
fi
as_root=''
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "As root, run: apt-get install $packages" >&2; loader && driver; exit; }
  as_root=sudo
fi
echo "Installing $packages" >&2
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
