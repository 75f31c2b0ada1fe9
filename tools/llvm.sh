#!/usr/bin/env bash
# Puts a static LLVM where burn's CUDA backend looks for one, from packages of the Python index. Only for machines on which the download
# that its build script makes by itself can't be reached; elsewhere `cargo build --features cuda` needs nothing.
#
#     tools/llvm.sh        # needs python3 with venv, and 1.5 GB in $XDG_DATA_HOME or ~/.local/share
set -euo pipefail

# The release that `tracel-llvm-bundler` asks for, in Cargo.lock.
bundle=$(sed -n '/^name = "tracel-llvm-bundler"$/{n;s/^version = "\(.*\)"$/\1/p}' "$(dirname "$0")/../Cargo.lock")
llvm=${bundle%-*}
folder=${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-$bundle

check() {
    [ "$("$1/bin/llvm-config" --version | cut -d. -f1,2)" = "${llvm%.*}" ] || return 1
    "$1/bin/llvm-config" --targets-built | grep -qw NVPTX
}

if [ -e "$folder/.tracel-llvm-installed" ] && check "$folder"; then
    echo "LLVM $("$folder/bin/llvm-config" --version) is there: $folder"
    exit
fi
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
python3 -m venv "$temporary/venv"
# The second one brings the code generator for NVIDIA's chips.
"$temporary/venv/bin/pip" install --quiet "mlc-llvm-static==${llvm%.*}.*" "mlc-llvm-static-extra-targets==${llvm%.*}.*"
static=$(echo "$temporary"/venv/lib/python3*/site-packages/mlc_llvm_static/static)
check "$static" || { echo "what was installed is no LLVM ${llvm%.*} with NVPTX" >&2; exit 1; }
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
cp -r "$static" "$folder"
check "$folder" || { echo "$folder does not work where it lies" >&2; exit 1; }
touch "$folder/.tracel-llvm-installed"
echo "LLVM $("$folder/bin/llvm-config" --version) is now in $folder"
