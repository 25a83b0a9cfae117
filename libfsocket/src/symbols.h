/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FSOCKET_SYMBOLS_H
#define FSOCKET_SYMBOLS_H

/* What the library intercepts, besides libfsocket.map. */
#define EXPORT __attribute__((visibility("default")))
/* Said at a declaration: -fvisibility is for definitions only, and who does not see one goes by the GOT. */
#define HIDDEN __attribute__((visibility("hidden")))

#endif
