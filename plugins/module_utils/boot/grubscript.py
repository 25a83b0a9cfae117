# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The language of GRUB's configuration: words and statements (info "GRUB", Shell-like scripting). Pure."""

import collections

from ..errors import FleetError

# One thing of the script: a word (parts: [(text, is_variable, is_quoted)]) or a separator (parts None).
Token = collections.namedtuple("Token", "text parts start end")
# Statements. `start`, `end`: where in the text; of a block also where its inside is.
Command = collections.namedtuple("Command", "words block inside start end")
If = collections.namedtuple("If", "branches start end")     # [(condition statements, statements)]
Skipped = collections.namedtuple("Skipped", "start end")    # a function or a loop: never carried out

_SEPARATORS = ";\n{}|&<>"
_ENDS = ("then", "elif", "else", "fi", "do", "done")
_LOOPS = ("for", "while", "until")


# ---- words -----------------------------------------------------------------


def tokens(text):
    """Return the Tokens of a script. FleetError, with the line, for a quote that does not end."""
    found, at = [], 0
    while at < len(text):
        char = text[at]
        if char in " \t\r":
            at += 1
        elif text.startswith("\\\n", at):
            at += 2
        elif char == "#":
            at = _until(text, "\n", at)
        elif char in _SEPARATORS:
            found.append(Token(char, None, at, at + 1))
            at += 1
        else:
            word = _word(text, at)
            found.append(word)
            at = word.end
    return found


def _until(text, char, at):
    end = text.find(char, at)
    return len(text) if end < 0 else end


def _word(text, start):
    parts, at, quoted = [], start, False
    while at < len(text) and (quoted or text[at] not in " \t\r" + _SEPARATORS):
        char = text[at]
        if char == '"':
            quoted = not quoted
            parts.append(("", False, True))
            at += 1
        elif char == "'" and not quoted:
            end = _closing(text, "'", at)
            parts.append((text[at + 1:end], False, True))
            at = end + 1
        elif char == "\\" and at + 1 < len(text):
            kept = "" if text[at + 1] == "\n" else text[at + 1]
            parts.append(("\\" + kept if quoted and kept and kept not in '$"\\' else kept, False, True))
            at += 2
        elif char == "$":
            name, at = _variable(text, at)
            parts.append((name, bool(name), quoted) if name else ("$", False, quoted))
        else:
            parts.append((char, False, quoted))
            at += 1
    if quoted:
        raise FleetError("line %d: a quote does not end" % (text.count("\n", 0, start) + 1))
    return Token(text[start:at], parts, start, at)


def _closing(text, quote, at):
    end = text.find(quote, at + 1)
    if end < 0:
        raise FleetError("line %d: a quote does not end" % (text.count("\n", 0, at) + 1))
    return end


def _variable(text, at):
    """Return the name of the variable at a dollar sign, empty when it is none, and where the text goes on."""
    if text.startswith("${", at):
        end = text.find("}", at)
        return (text[at + 2:end], end + 1) if end > 0 else ("", at + 1)
    end = at + 1
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    if end == at + 1 and end < len(text) and text[end] in "?#*@":
        end += 1
    return text[at + 1:end], end


def expand(word, env):
    """Return the words that a word becomes: a variable outside quotes falls apart at blanks, and away if empty."""
    done, now, there = [], "", False
    for text, variable, quoted in word.parts:
        if not variable:
            now, there = now + text, there or quoted or bool(text)
            continue
        value = env.get(text, "")
        if quoted:
            now, there = now + value, True
            continue
        pieces = value.split()
        if pieces and value[0] in " \t" and there:
            done, now = done + [now], ""
        for index, piece in enumerate(pieces):
            if index:
                done, now = done + [now], ""
            now, there = now + piece, True
    return done + [now] if there else done


def quote(text):
    """Return one word of GRUB's language that stands for this text."""
    return "'%s'" % text.replace("'", "'\\''")


# ---- statements ------------------------------------------------------------


class _Parser:
    def __init__(self, text):
        self.text, self.tokens, self.at = text, tokens(text), 0

    def fail(self, what):
        where = self.tokens[self.at].start if self.at < len(self.tokens) else len(self.text)
        raise FleetError("line %d: %s" % (self.text.count("\n", 0, where) + 1, what))

    def peek(self):
        """Return the next token's text: a separator, a word as it is written, or None at the end."""
        return self.tokens[self.at].text if self.at < len(self.tokens) else None

    def take(self, *wanted):
        if wanted and self.peek() not in wanted:
            self.fail("%s is missing" % " or ".join(wanted))
        self.at += 1
        return self.tokens[self.at - 1]

    def statements(self, *ends):
        """Return statements up to one of `ends` (not taken), or to the end of the text when there are none."""
        found = []
        while True:
            while self.peek() in (";", "\n", "&", "|", "<", ">"):
                self.take()
            word = self.peek()
            if word in ends or word is None:
                if word is None and ends:
                    self.fail("%s is missing" % " or ".join(ends))
                return found
            if word in _ENDS or word in "{}":
                self.fail("%s stands where a command should" % word)
            found.append(self.statement(word))

    def statement(self, word):
        start = self.tokens[self.at].start
        if word == "if":
            branches, first = [], self.take()
            while first.text in ("if", "elif"):
                condition = self.statements("then")
                self.take()
                branches.append((condition, self.statements("elif", "else", "fi")))
                first = self.take()
            if first.text == "else":
                branches.append((None, self.statements("fi")))
                first = self.take("fi")
            return If(branches, start, first.end)
        if word in _LOOPS:
            while self.peek() not in ("do", None):
                self.take()
            self.take("do")
            self.statements("done")
            return Skipped(start, self.take("done").end)
        return self.command(start)

    def command(self, start):
        words = []
        while self.peek() is not None and self.tokens[self.at].parts is not None:
            words.append(self.take())
        if self.peek() != "{":
            return Command(words, None, None, start, words[-1].end)
        first = self.take("{")
        block = self.statements("}")
        last = self.take("}")
        if words[0].text == "function":
            return Skipped(start, last.end)
        return Command(words, block, (first.end, last.start), start, last.end)


def parse(text):
    """Return the statements of a script. FleetError, with the line, when it is not one."""
    return _Parser(text).statements()


def parts(body, env):
    """Return (statement's text, name, words as the variables now stand) for each statement of an entry's body; name
    is None for one that is no plain command."""
    found = []
    for statement in parse(body):
        words = []
        if isinstance(statement, Command) and statement.block is None:
            words = [one for word in statement.words for one in expand(word, env)]
        found.append((body[statement.start:statement.end], words[0] if words else None, words[1:]))
    return found


def commands(body, env):
    """Return the words of every plain command in an entry's body, also of those inside an if, in their order."""
    return [one for one in _commands(parse(body), env) if one]


def _commands(statements, env):
    for statement in statements:
        if isinstance(statement, If):
            for condition, block in statement.branches:
                yield from _commands((condition or []) + block, env)
        elif isinstance(statement, Command) and statement.block is None:
            yield [one for word in statement.words for one in expand(word, env)]
