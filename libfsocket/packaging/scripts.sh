#!/bin/sh
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
# The link to the library that services get at their next start. It is turned to this package's library when there is none or when
# it shows an older package's, and only after /bin/true has lived with it; who turned it elsewhere (the role) keeps it.
folder=/usr/lib/fastsocket
link=$folder/libfsocket.so
library=$folder/package/@NAME@

post() {
  case $(readlink $link || :) in
    '' | $folder/package/*) ;;
    *) return 0 ;;
  esac
  try=$(mktemp -d)
  said=$(LD_PRELOAD=$library FSOCKET_DIR=$try FSOCKET_NAME=check /bin/true 2>&1) || said="exit status $? $said"
  [ -n "$said" ] || [ -e "$try/check.stats" ] || said='it made no statistics file'
  rm -rf "$try"
  if [ -n "$said" ]; then
    echo >&2 "libfsocket: /bin/true does not live with $library, $link stays as it was: $said"
    return 1
  fi
  ln -s $library $link.$$ && mv -fT $link.$$ $link
}

# At the removal (rpm: 0 of this package stay), not at an upgrade.
preun() {
  case $1 in
    0 | remove) [ "$(readlink $link)" != $library ] || rm -f $link ;;
  esac
}
