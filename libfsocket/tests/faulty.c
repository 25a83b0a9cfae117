/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Never built: an analyzer that says nothing of it is blind. */
#include <stdlib.h>

void twice(void *memory);
void twice(void *memory)
{
	free(memory);
	free(memory);
}
