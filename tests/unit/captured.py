# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `systemctl show UNIT --property=...` of Debian 12 (systemd 252) printed, word for word, and ODD: a unit made to
be awkward, with the file it reads and the environment that its process really had."""

from ansible_collections.fastsocket.fleet.plugins.module_utils import systemd

NGINX = """\
PIDFile=/run/nginx.pid
MainPID=33
ExecStart={ path=/usr/sbin/nginx ; argv[]=/usr/sbin/nginx -g daemon on; master_process on; ; ignore_errors=no ; \
start_time=[Sun 2026-11-22 22:39:46 UTC] ; stop_time=[Sun 2026-11-22 22:39:46 UTC] ; pid=31 ; code=exited ; status=0 }
EffectiveCPUs=
Environment=
ProtectSystem=no
LoadState=loaded
ActiveState=active
"""

HAPROXY = """\
PIDFile=
MainPID=27
ExecStart={ path=/usr/sbin/haproxy ; argv[]=/usr/sbin/haproxy -Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS ; \
ignore_errors=no ; start_time=[Sun 2026-11-22 22:39:46 UTC] ; stop_time=[n/a] ; pid=27 ; code=(null) ; status=0/0 }
EffectiveCPUs=
Environment=CONFIG=/etc/haproxy/haproxy.cfg PIDFILE=/run/haproxy.pid "EXTRAOPTS=-S /run/haproxy-master.sock"
EnvironmentFiles=/etc/default/haproxy (ignore_errors=yes)
EnvironmentFiles=/etc/sysconfig/haproxy (ignore_errors=yes)
ProtectSystem=no
LoadState=loaded
ActiveState=active
"""

MISSING = """\
PIDFile=
MainPID=0
EffectiveCPUs=
Environment=
ProtectSystem=no
LoadState=not-found
ActiveState=inactive
"""

ODD = r"""PIDFile=
MainPID=0
ExecStart={ path=/bin/sh ; argv[]=/bin/sh -c sleep 1000; true $ARGS ${ONE} a b ; ignore_errors=no ; """ \
    r"""start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
EffectiveCPUs=
Environment="GREETING=hello world" LD_PRELOAD=/usr/lib/jemalloc.so PLAIN=x "QUOTE=a\"b" "BACK=a\\b" LAST=1
EnvironmentFiles=/etc/odd one.env (ignore_errors=yes)
EnvironmentFiles=/etc/odd.env (ignore_errors=no)
ProtectSystem=strict
LoadState=loaded
ActiveState=inactive
"""

ODD_ENVIRONMENT = {
    "GREETING": "hello world", "LD_PRELOAD": "/usr/lib/jemalloc.so", "PLAIN": "x", "QUOTE": 'a"b', "BACK": "a\\b",
    "LAST": "1",
}

ODD_FILE = r"""# comment
; another
ARGS=-a "b c"
QUOTED="double quoted"
SINGLE='single quoted'
  SPACED = padded  
LONG=one \
two
EMPTY=
MIX=a "b" c
ESC="a\"b\\c\$d\e"
TRAIL=abc   
HASH=a#b
PART=pre"mid dle"post
EMBED=it"s x
DUP=a
DUP=b
ONE=from file
UN=a\ b
TWO="one" "two"
REST="one" two
MULTI="line1
AFTER=no
line2"
export NO=1
 ; MORE=no \
MORE=no
1NO=1
TAB="a	b"
SQB='a\nb'
"""  # noqa: W291 - blanks at the end of a line are among what is awkward

ODD_FILE_ENVIRONMENT = {
    "ARGS": '-a "b c"', "QUOTED": "double quoted", "SINGLE": "single quoted", "SPACED": "padded", "LONG": "one two",
    "EMPTY": "", "MIX": 'a "b" c', "ESC": 'a"b\\c$d\\e',
    "UN": "a b", "TWO": "onetwo", "REST": "onetwo", "MULTI": "line1\nAFTER=no\nline2",
    "TRAIL": "abc", "HASH": "a#b", "PART": 'pre"mid dle"post',
    "EMBED": 'it"s x', "DUP": "b", "ONE": "from file", "TAB": "a\tb", "SQB": "a\\nb",
}


def properties(text, **changed):
    """What systemd.show() makes of a captured text, with some properties changed."""
    found = dict.fromkeys(systemd.SHOWN, "")
    for line in text.splitlines():
        name, _, value = line.partition("=")
        found[name] = found[name] + "\n" + value if found[name] else value
    return {**found, **changed}
