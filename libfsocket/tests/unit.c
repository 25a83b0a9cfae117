/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The pure parts, linked from the library's own objects. Wants FSOCKET_DIR and FSOCKET_NAME to play in. */
#include "tap.h"

int tap_count, tap_failed;

int main(void)
{
	unit_settings();
	unit_ports();
	unit_rss();
	unit_leave();
	unit_options();
	unit_choose();
	unit_table();
	printf("1..%d\n", tap_count);
	return tap_failed != 0;
}
