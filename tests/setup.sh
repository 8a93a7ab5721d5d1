#!/usr/bin/env bash
# Makes sure that a Vulkan driver is there; where none is, installs Mesa's software one on Debian and Ubuntu.
set -euo pipefail
[ "$(uname -s)" = Linux ] || exit 0
loader() { ldconfig -p 2>/dev/null | grep -q libvulkan.so.1 || [ -n "$(find /usr/lib /usr/local/lib -name 'libvulkan.so.1' -print -quit 2>/dev/null)" ]; }
driver() { compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null || compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null || [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; }
loader && driver && exit 0
packages='libvulkan1 mesa-vulkan-drivers'
if ! command -v apt-get >/dev/null; then
  echo "No Vulkan driver was found. Install one; Mesa's software driver is enough (on Debian and Ubuntu: $packages)." >&2
  exit 1
fi
as_root=''
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "No Vulkan driver was found. As root, run: apt-get install $packages" >&2; exit 1; }
  as_root=sudo
fi
echo "No Vulkan driver was found: installing $packages" >&2
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
