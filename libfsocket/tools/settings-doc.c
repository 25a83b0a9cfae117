/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* settings-doc man | table | rows: the settings of settings.def as roff, as a Markdown table, as rows of tools/docs-page. */
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

static void as_roff(const struct setting_row *row, const char *fallback)
{
	printf(".TP\n.B %s\n%s.\nDefault: %s (%s).\n", row->name, row->doc, fallback, range(row));
}

static void as_table(const struct setting_row *row, const char *fallback)
{
	const char *quote = *row->fallback ? "`" : "";

	printf("| `%s` | %s%s%s | %s | %s |\n", row->name, quote, fallback, quote, range(row), row->doc);
}

static void as_row(const struct setting_row *row, const char *fallback)
{
	printf("| setting | `%s` | %s; default: %s | %s |\n", row->name, range(row), fallback, row->doc);
}

static const struct {
	const char *name, *head;
	void (*print)(const struct setting_row *row, const char *fallback);
} forms[] = {
	{ "man", "", as_roff },
	{ "table", "| setting | default | range | meaning |\n| --- | --- | --- | --- |\n", as_table },
	{ "rows", "", as_row },
};

int main(int argc, char **argv)
{
	for (size_t f = 0; f < sizeof(forms) / sizeof(forms[0]); f++) {
		if (argc != 2 || strcmp(argv[1], forms[f].name))
			continue;
		printf("%s", forms[f].head);
		for (int i = 0; i < setting_count; i++)
			forms[f].print(&setting_rows[i], *setting_rows[i].fallback ? setting_rows[i].fallback : "empty");
		return 0;
	}
	fprintf(stderr, "usage: settings-doc man | table | rows\n");
	return 2;
}
