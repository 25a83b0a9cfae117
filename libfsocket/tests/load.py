#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""load.py ADDRESS PORT COUNT: one connection a request, from CPU 0 and CPU 1 in turn; COUNT 0: until SIGTERM.

Prints one JSON object: {"failed": {kind: how many}, "answers": [[cpu, word, ...], ...]} with the words of each answer's
last line. Each connection has 5 seconds.
"""
import json
import os
import signal
import socket
import sys
import time

PATIENCE_S = 5
stop = False


def on_term(*_):
    global stop
    stop = True


def ask(address, port):
    """Return the words of the answer's last line, or the kind of failure as text."""
    try:
        with socket.create_connection((address, port), timeout=PATIENCE_S) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while part := s.recv(4096):
                answer += part
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "timeout"
    except OSError as e:
        return str(e)
    if not answer:
        return "empty"
    if answer.startswith(b"HTTP/") and b" 200 " not in answer.split(b"\r\n")[0]:
        return answer.split(b"\r\n")[0].decode()
    return answer.decode().strip().splitlines()[-1].split()


def main():
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    cpus = sorted(os.sched_getaffinity(0))[:2]
    failed, answers, number = {}, [], 0
    signal.signal(signal.SIGTERM, on_term)
    print("up", flush=True)
    while not stop and (not count or number < count):
        cpu = cpus[number % len(cpus)]
        os.sched_setaffinity(0, [cpu])
        result = ask(address, port)
        if isinstance(result, str):
            failed[result] = failed.get(result, 0) + 1
        else:
            answers.append([cpu, *result])
        number += 1
        if not count:
            time.sleep(0.001)
    print(json.dumps({"failed": failed, "answers": answers}))


main()
