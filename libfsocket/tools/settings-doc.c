/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* settings-doc man | table: the settings of settings.def as roff or as a Markdown table. */
#include <stdio.h>
#include <string.h>

#include "settings.h"

static const char *const types[] = { "0 or 1", "whole number", "text" };

static const char *range(const struct setting_row *row)
{
	static char text[64];

	if (row->type == SETTING_BOOL)
		return types[SETTING_BOOL];
	snprintf(text, sizeof(text), row->type == SETTING_INT ? "%d to %d" : "text, %d to %d characters", row->low,
		 row->high);
	return text;
}

int main(int argc, char **argv)
{
	int roff = argc == 2 && !strcmp(argv[1], "man");

	if (argc != 2 || (!roff && strcmp(argv[1], "table"))) {
		fprintf(stderr, "usage: settings-doc man | table\n");
		return 2;
	}
	if (!roff)
		printf("| setting | default | range | meaning |\n| --- | --- | --- | --- |\n");
	for (int i = 0; i < setting_count; i++) {
		const struct setting_row *row = &setting_rows[i];

		if (roff)
			printf(".TP\n.B %s\n%s.\nDefault: %s (%s).\n", row->name, row->doc,
			       *row->fallback ? row->fallback : "empty", range(row));
		else
			printf("| `%s` | %s%s%s | %s | %s |\n", row->name, *row->fallback ? "`" : "",
			       *row->fallback ? row->fallback : "empty", *row->fallback ? "`" : "", range(row),
			       row->doc);
	}
	return 0;
}
