# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Hosts to try a rollout on: real systemd, real SSH, real NIC queues, on one machine."""
