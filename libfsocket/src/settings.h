/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FSOCKET_SETTINGS_H
#define FSOCKET_SETTINGS_H

enum setting_type { SETTING_BOOL, SETTING_INT, SETTING_TEXT };

struct setting_row {
	const char *name;
	enum setting_type type;
	const char *fallback;
	int low, high;
	const char *doc;
};

extern const struct setting_row setting_rows[];
extern const int setting_count;

#define SETTING_FIELD_BOOL int
#define SETTING_FIELD_INT int
#define SETTING_FIELD_TEXT const char *
struct settings {
#define SETTING(field, name, type, fallback, low, high, doc) SETTING_FIELD_##type field;
#include "settings.def"
#undef SETTING
};

extern struct settings settings;

/*
 * Read FSOCKET_* from an environment. A value out of range is warned about and
 * its default taken; so is a name that no row has.
 */
void settings_read(char **environment);

/* One line on stderr, "libfsocket: ...", when FSOCKET_LOG is at least level. */
__attribute__((format(printf, 2, 3)))
void say(int level, const char *format, ...);

#endif
