# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services in systemd's sandboxes: wrapped they serve and count, off and unwrapped they serve on."""
import base64
import contextlib

import pytest
from fleet import wait

HOST, ADDRESS = "web1", "10.99.0.41"
LIBRARY = "/opt/libfsocket.so"
# What operators harden a web server with. Its pid file and its logs have to stay writable.
HARDENED = """ProtectSystem=strict
ReadWritePaths=/run /var/log/nginx /var/lib/nginx
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
NoNewPrivileges=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_CHOWN CAP_DAC_OVERRIDE CAP_KILL
"""
DYNAMIC = """[Service]
ExecStart=/usr/bin/python3 -m http.server --directory /usr/share/doc 8095
DynamicUser=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6
"""
COUNT = 50


@pytest.fixture(scope="module")
def installed(lab, library):
    text = base64.encodebytes(library.read_bytes()).decode()
    lab.sh(HOST, f"base64 -d >{LIBRARY} <<END\n{text}END\nchmod 755 {LIBRARY}")


@contextlib.contextmanager
def unit(lab, path, text, service, port):
    """A unit file or drop-in of the operator's while the block runs; the service answers at `port`."""
    lab.sh(HOST, f"mkdir -p $(dirname {path})\ncat >{path} <<'END'\n{text}END\nsystemctl daemon-reload")
    try:
        lab.sh(HOST, f"systemctl restart {service} && systemctl is-active {service}")
        wait(lambda: served(lab, port, 1), 20)
        yield
    finally:
        lab.module(HOST, "preload", service=service, state="absent")
        lab.sh(HOST, f"systemctl stop {service}; rm {path}; systemctl daemon-reload; systemctl reset-failed {service}",
               status=None)


def served(lab, port, count=COUNT):
    """How many of `count` requests are answered with 200."""
    loop = f"for _ in $(seq {count}); do curl -s -o /dev/null -w '%{{http_code}}\\n' http://{ADDRESS}:{port}/; done"
    return lab.run("sh", "-c", loop).stdout.split().count("200")


def accepts(lab, service):
    stats = lab.module(HOST, "core_stats_info")["services"][service]["stats"]
    return stats["summary"]["accepts"] if stats else None


def mapped(lab, service):
    """Has the main process of the service the library?"""
    script = f"grep -c libfsocket /proc/$(systemctl show -P MainPID {service})/maps"
    return int(lab.sh(HOST, script, status=None)) > 0


def test_hardened_nginx(lab, installed):
    with unit(lab, "/etc/systemd/system/nginx.service.d/50-hardened.conf", "[Service]\n" + HARDENED, "nginx", 80):
        assert served(lab, 80) == COUNT and not mapped(lab, "nginx")
        result = lab.module(HOST, "preload", service="nginx", library=LIBRARY)
        assert not result["failed"] and result["changed"], result
        assert mapped(lab, "nginx")
        before = accepts(lab, "nginx")
        assert served(lab, 80) == COUNT
        assert accepts(lab, "nginx") - before >= COUNT
        assert not lab.module(HOST, "preload", service="nginx", state="off")["failed"]
        before = accepts(lab, "nginx")
        assert served(lab, 80) == COUNT
        assert accepts(lab, "nginx") == before, "it counts while off"
        assert not lab.module(HOST, "preload", service="nginx", state="on")["failed"]
        assert not lab.module(HOST, "preload", service="nginx", state="absent")["failed"]
        assert served(lab, 80) == COUNT and not mapped(lab, "nginx")
        options = lab.sh(HOST, "systemctl show nginx -p ProtectSystem,MemoryDenyWriteExecute,Environment")
        assert sorted(options.split()) == ["Environment=", "MemoryDenyWriteExecute=yes", "ProtectSystem=strict"]
    lab.sh(HOST, "systemctl restart nginx")


def test_dynamic_user_is_refused(lab, installed):
    """Only who starts as root can be wrapped: one clear error, and the service is as it was."""
    with unit(lab, "/etc/systemd/system/dynamic.service", DYNAMIC, "dynamic", 8095):
        before = lab.sh(HOST, "systemctl show dynamic -p MainPID,Environment,DropInPaths")
        result = lab.module(HOST, "preload", service="dynamic", library=LIBRARY)
        assert result["failed"] and "starts as User=dynamic" in result["msg"], result
        assert lab.sh(HOST, "systemctl show dynamic -p MainPID,Environment,DropInPaths") == before
        assert served(lab, 8095) == COUNT


@pytest.mark.parametrize("switch, said", [
    ("", "staying off, as there would be no way back"), ("1", "statistics stay in this service")])
def test_dynamic_user_by_hand(lab, installed, switch, said):
    """The operator's own LD_PRELOAD: without a switch that root has made the library is off, with one on; it serves."""
    text = DYNAMIC + f"Environment=LD_PRELOAD={LIBRARY}\n"
    lab.sh(HOST, f"mkdir -p /run/fastsocket; rm -f /run/fastsocket/python3*; printf '%s' '{switch}' >/tmp/switch")
    lab.sh(HOST, "test ! -s /tmp/switch || cp /tmp/switch /run/fastsocket/python3.switch")
    with unit(lab, "/etc/systemd/system/dynamic.service", text, "dynamic", 8095):
        assert served(lab, 8095) == COUNT and mapped(lab, "dynamic")
        log = lab.sh(HOST, "journalctl -q -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID dynamic)")
        lines = [line for line in log.splitlines() if line.startswith("libfsocket: ")]
        assert len(lines) == 1 and said in lines[0], log
        assert "User=dynamic" in lab.sh(HOST, "systemctl show dynamic -p User")
    lab.sh(HOST, "rm -f /run/fastsocket/python3*")
