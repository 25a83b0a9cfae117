# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a GRUB configuration comes to: its menu, and the entry that its default means (info "GRUB", default). Pure.

Only what decides that is carried out: set, unset, if, load_env, source, menuentry, submenu, blscfg. Other commands do
nothing; as a condition they are false, for a grub.cfg asks them only about fonts, keys and screens."""

import collections

from ..errors import FleetError
from .grubscript import Command, If, expand, parse

# An entry of the menu: a submenu has `entries`, the others a `body`, GRUB's own text.
Entry = collections.namedtuple("Entry", "id title unrestricted body entries")

_FEATURES = ("menuentry_id", "platform_search_hint", "timeout_style", "default_font_path", "all_video_module")
_DEPTH = 64     # files that source each other for ever


class Menu:
    """What a configuration comes to: `entries`, and the variables `env` after it. `block`: the environment block;
    `platform`: efi or pc; `read`: path -> text or None, of a file it sources; `boot_loader_spec`: -> [Entry], what
    blscfg adds."""

    def __init__(self, block, platform, folder, read, boot_loader_spec):
        self.block, self.read, self.boot_loader_spec = block, read, boot_loader_spec
        self.env = {"feature_" + name: "y" for name in _FEATURES}
        self.env.update(grub_platform=platform, prefix=folder, config_directory=folder)
        self.entries, self.sourced = [], []

    def load(self, path):
        """Carry out a configuration file. FleetError, with path and line, when it cannot be read as one."""
        text = self.read(path)
        if text is None:
            return
        self.sourced.append(path)
        if len(self.sourced) > _DEPTH:
            raise FleetError("%s: its files source each other without end" % path)
        try:
            parsed = parse(text)
        except FleetError as error:
            raise FleetError("%s, %s" % (path, error)) from error
        self._run(parsed, text, self.entries)

    def _run(self, statements, text, entries):
        """Carry out statements; return whether the last one succeeded."""
        success = True
        for statement in statements:
            if isinstance(statement, If):
                for condition, body in statement.branches:
                    if condition is None or self._run(condition, text, entries):
                        self._run(body, text, entries)
                        break
            elif isinstance(statement, Command):
                success = self._command(statement, text, entries)
        return success

    def _command(self, statement, text, entries):
        words = [one for word in statement.words for one in expand(word, self.env)]
        if not words:
            return True
        name, rest = words[0], words[1:]
        action = getattr(self, "_do_" + name.replace("[", "test"), None) if name.islower() or name == "[" else None
        if name in ("menuentry", "submenu") and statement.block is not None:
            entries.append(self._entry(name, rest, statement, text))
        elif name == "blscfg":
            entries.extend(self.boot_loader_spec())
        elif action:
            return action(rest)
        elif not rest and "=" in name:
            return self._do_set(words)
        return False

    def _entry(self, name, words, statement, text):
        title, found, free = None, {}, "--unrestricted" in words
        words = [word for word in words if word != "--unrestricted"]
        while words:
            word = words.pop(0)
            if word.startswith("--") and words:
                key, sep, value = word.partition("=")
                found[key] = value if sep else words.pop(0)
            elif title is None:
                title = word
        title, inner = title or "", []
        if name == "submenu":
            self._run(statement.block, text, inner)
        body = text[slice(*statement.inside)] if name == "menuentry" else None
        return Entry(found.get("--id", title), title, free, body, inner if name == "submenu" else None)

    def _do_set(self, words):
        for word in words:
            name, sep, value = word.partition("=")
            if sep:
                self.env[name] = value
        return True

    def _do_unset(self, words):
        for word in words:
            self.env.pop(word, None)
        return True

    def _do_load_env(self, words):
        names = [word for index, word in enumerate(words)
                 if not word.startswith("-") and words[index - 1:index] not in (["-f"], ["--file"])]
        self.env.update({name: value for name, value in self.block.items() if name in names or not names})
        return True

    def _do_source(self, words):
        for path in words[:1]:
            self.load(path)
        return bool(words)

    def _do_true(self, dummy):
        return True

    def _do_test(self, words):
        return _any(words[:-1] if words[-1:] == ["]"] else words, self.read)


_COMPARE = {
    "=": lambda a, b: a == b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b, ">": lambda a, b: a > b,
    "-eq": lambda a, b: _int(a) == _int(b), "-ne": lambda a, b: _int(a) != _int(b),
    "-lt": lambda a, b: _int(a) < _int(b), "-le": lambda a, b: _int(a) <= _int(b),
    "-gt": lambda a, b: _int(a) > _int(b), "-ge": lambda a, b: _int(a) >= _int(b),
}


def _int(text):
    return int(text) if text.lstrip("-").isdigit() else 0


def _any(words, read):
    """GRUB's test: -o of -a of single tests."""
    return any(all(_test(one, read) for one in _split(part, "-a")) for part in _split(words, "-o"))


def _split(words, at):
    parts = [[]]
    for word in words:
        if word == at:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _test(words, read):
    if words[:1] == ["!"]:
        return not _test(words[1:], read)
    if len(words) == 3 and words[1] in _COMPARE:
        return _COMPARE[words[1]](words[0], words[2])
    if len(words) == 2 and words[0] in ("-f", "-e", "-s"):
        text = read(words[1])
        return bool(text) if words[0] == "-s" else text is not None
    if words[:1] in (["-n"], ["-z"]):
        return (words[0] == "-n") == any(words[1:])
    return any(words)


# ---- the default -----------------------------------------------------------


def resolve(entries, rule):
    """Return the path of entries, outermost first, that `default` means: numbers, ids or titles, one a level, with >
    between them. None when nothing answers to it, or it stops at a submenu."""
    first, rest = _step(rule)
    if first.isdigit():
        entry = entries[int(first)] if int(first) < len(entries) else None
    else:
        entry = next((one for one in entries if first in (one.id, one.title)), None)
    if entry is None:
        return None
    if entry.entries is None:
        return [entry]
    inner = resolve(entry.entries, rest) if rest else None
    return [entry] + inner if inner else None


def _step(rule):
    """Split "a>>b>c" into "a>b" and "c"."""
    first, at = "", 0
    while at < len(rule):
        if rule[at] == ">":
            if rule[at + 1:at + 2] != ">":
                return first, rule[at + 1:]
            at += 1
        first, at = first + rule[at], at + 1
    return first, ""


def full_id(path):
    """Return the rule that means this path of entries, by id."""
    return ">".join(entry.id.replace(">", ">>") for entry in path)


def paths(entries, above=()):
    """Return the path of each entry that boots something, in the order of the menu."""
    found = []
    for entry in entries:
        here = list(above) + [entry]
        found += [here] if entry.entries is None else paths(entry.entries, here)
    return found
