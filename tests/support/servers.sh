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
needs pixelmed-apps command -v DicomSRValidator
needs rsyslog command -v rsyslogd
needs rsyslog-gnutls compgen -G '/usr/lib/*/rsyslog/lmnsd_gtls.so'
needs postgresql compgen -G '/usr/lib/postgresql/*/bin/initdb'

# The viewer tests are skipped without a browser, so that its absence stops nobody.
optional=()
command -v chromium chromium-browser google-chrome >/dev/null || optional=(chromium)

install() {
  echo "Installing $*" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"
}
may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

if [ ${#missing[@]} -gt 0 ]; then
  may_install && install "${missing[@]}" || {
    echo "The tests need servers that are not installed: sudo apt-get install ${missing[*]}" >&2
    exit 1
  }
fi
if [ ${#optional[@]} -gt 0 ]; then
  may_install && install "${optional[@]}" ||
    echo "No viewer will be tested without a browser: sudo apt-get install ${optional[*]}" >&2
fi
