#!/usr/bin/env bash
# Windows without Windows: Microsoft's shader compilers, and the program on Wine's Direct3D 12 with Mesa's software Vulkan.
#   windows.sh hlsl               every pipeline by DXC and by FXC
#   windows.sh build              the program for Windows, to target/windows; many minutes the first time
#   windows.sh run ARGUMENT...    runs it; adapter 0 is Direct3D 12, 1 is Vulkan, and paths are this machine's own
# They run in a Debian 13 (debian.sh make). The npm package webgpu of web/tests has Microsoft's compilers.
set -euo pipefail
. "$(dirname "$0")/common.sh"
here=$root/tests/portability
libraries=$root/web/tests/node_modules/webgpu/dist/win32-x64
built=$root/target/windows/x86_64-pc-windows-gnu/release/qllama.exe
verb=${1:-}
shift || true

wine() {
  [ -e "$libraries/dxcompiler.dll" ] || { say 'web/tests has no package webgpu: (cd web/tests && npm ci)'; exit 1; }
  mkdir -p "$work/wine"
  MOUNT=${MOUNT:-} "$here/debian.sh" run bash -euc '
    export WINEPREFIX=$1 WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES="d3dcompiler_47=n" DISPLAY=:99
    cd "$2"; shift 2
    Xvfb "$DISPLAY" -screen 0 640x480x24 >/dev/null 2>&1 &
    x=$!
    trap "wineserver -k 2>/dev/null || true; kill $x" EXIT
    sleep 1
    [ -e "$WINEPREFIX/ready" ] || { wine64 wineboot --init >/dev/null 2>&1; wineserver -w; touch "$WINEPREFIX/ready"; }
    "$@"' _ "$work/wine" "$@"
}

case $verb in
  hlsl)
    prepare
    out=$work/translated
    rm -rf "$out"
    "$compilers" translate "$work/pipelines.jsonl" "$out"
    cp "$libraries/dxcompiler.dll" "$out/dxc.dll"
    cp "$libraries/d3dcompiler_47.dll" "$out/fxc_47.dll"
    "$here/debian.sh" run x86_64-w64-mingw32-g++ -O1 -static -o "$out/hlsl.exe" "$here/hlsl.cpp"
    wine "$out" bash -c 'wine64 hlsl.exe dxc.dll *.6_0.hlsl && wine64 hlsl.exe fxc_47.dll *.5_1.hlsl'
    ;;
  build)
    apt x86_64-w64-mingw32-gcc=gcc-mingw-w64-x86-64-win32
    target=x86_64-pc-windows-gnu folder=$root/target/windows
    # As web/build.sh has it: Debian's compiler builds the standard library with the program.
    [ -x /usr/share/cargo/bin/cargo ] && [ -d /usr/lib/rustlib/src/rust/library ] || { say 'run web/setup.sh first'; exit 1; }
    export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_TARGET_DIR=$folder
    # Objects for the start of a program, which -Z build-std does not make.
    mkdir -p "$folder/start"
    for object in rsbegin rsend; do
      $RUSTC --target $target --emit=obj -o "$folder/start/$object.o" /usr/lib/rustlib/src/rust/library/rtstartup/$object.rs
    done
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTFLAGS="-L $folder/start"
    cd "$root"
    /usr/share/cargo/bin/cargo build --locked -Z build-std=std,panic_unwind --release -p qllama-cli --bin qllama --target $target
    ;;
  run)
    folder=$work/windows
    mkdir -p "$folder"
    cp "$built" "$libraries/d3dcompiler_47.dll" "$folder"
    # Wine calls this machine's files Z:.
    arguments=()
    for argument in "$@"; do
      [[ $argument == /* ]] && argument="Z:${argument//\//\\}"
      arguments+=("$argument")
    done
    wine "$folder" bash -c 'since=$(date +%s%N); rc=0; timeout 300 wine64 ./qllama.exe "$@" || rc=$?
      echo "windows.sh: the program ran for $((($(date +%s%N) - since) / 1000000)) ms" >&2; exit $rc' _ "${arguments[@]}"
    ;;
  *)
    sed -n '2,6s/^# \?//p' "$0" >&2
    exit 2
    ;;
esac
