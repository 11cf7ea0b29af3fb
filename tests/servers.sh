#!/usr/bin/env bash
# Install the Debian packages whose servers and tools the tests start, or name the missing ones.
# Only the programs are used: the services that Debian starts from them are neither needed nor touched.
set -euo pipefail
PATH=$PATH:/usr/sbin

missing=()
needs() { # package, then a test that it is there
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
needs redis-server command -v redis-server
needs orthanc command -v Orthanc
needs orthanc-dicomweb test -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so
needs dcmtk command -v storescu
needs dicom3tools command -v dciodvfy
needs postgresql compgen -G '/usr/lib/postgresql/*/bin/initdb'

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
  echo "The tests need servers that are not installed: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
