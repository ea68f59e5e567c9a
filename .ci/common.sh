# Shared by ./quickstart and ./test: talking, installing Debian packages, building. Sourced, with `set -euo pipefail` on.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin

build_packages=(clang-19 lld-19 libstdc++-12-dev cmake ninja-build pkg-config liburing-dev libssl-dev libgcrypt20-dev
                zlib1g-dev libdeflate-dev libisal-dev libzstd-dev nettle-dev libfmt-dev nlohmann-json3-dev libcli11-dev libpugixml-dev e2fsprogs
                libzydis-dev libdw-dev libnbd-dev libfuse3-dev libedit-dev libtomlplusplus-dev libjs-chart.js)

if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else bold='' dim='' red='' green='' plain=''; fi

step() { printf '\n%s==> %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '    %s\n' "$*"; }
die() { printf '%s%s: %s%s\n' "$red" "${0##*/}" "$*" "$plain" >&2; exit 1; }

as_root() {
  if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi
}

missing_packages() {
  local package
  for package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || printf '%s\n' "$package"
  done
}

# install_packages PACKAGE...: those of them that are not installed yet.
install_packages() {
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    die "this script installs Debian packages and found no apt-get. Install the counterparts of: $*; then build as docs/HACKING.md says"
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [[ ${#missing[@]} -gt 0 ]] || return 0
  step "Installing ${#missing[@]} Debian packages"
  say "${missing[*]}"
  [[ $EUID -eq 0 ]] || command -v sudo >/dev/null ||
    die "needs root to install them: run 'apt-get install --no-install-recommends ${missing[*]}' as root, then start again"
  local log
  log=$(mktemp)
  { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y update &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || {
    tail -n 25 "$log" >&2
    die "apt-get failed (the whole log: $log). Cofre needs Debian 12's packages: check the network and /etc/apt/sources.list"
  }
  rm -f "$log"
}

# build_target PRESET TARGET...: quiet, with a percentage; what the compiler said is shown when it fails.
build_target() {
  local preset=$1 log="$root/build/$1.log" last=-1 percent rest
  shift
  set +e
  NINJA_STATUS='@%p ' cmake --build "$root/build/$preset" --target "$@" 2>&1 | tee "$log" | while IFS= read -r rest; do
    [[ $rest =~ ^@\ *([0-9]+)% ]] || continue
    percent=${BASH_REMATCH[1]}
    if [[ -t 1 ]]; then printf '\r    %s%%  ' "$percent"
    elif (( percent / 20 > last )); then last=$((percent / 20)); say "$percent%"; fi
  done
  local status=${PIPESTATUS[0]}
  set -e
  [[ ! -t 1 ]] || printf '\r          \r'
  [[ $status -eq 0 ]] || { grep -vE '^@ *[0-9]+%' "$log" | tail -n 40 >&2; die "the build failed (the whole log: $log)"; }
}

# configure PRESET ARGUMENT...
configure() {
  local preset=$1 log="$root/build/$1.configure.log"
  shift
  mkdir -p "$root/build"
  (cd "$root" && cmake --preset "$preset" "$@") >"$log" 2>&1 || {
    tail -n 25 "$log" >&2
    die "cmake failed (the whole log: $log). Was the folder moved? Then remove build/$preset and start again"
  }
}
