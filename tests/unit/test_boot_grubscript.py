# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB's configuration language: the same texts are scripts as for GRUB, and mean the same menu."""

import subprocess

import boot_tree
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.fastsocket.fleet.plugins.module_utils.boot import grubmenu, grubscript
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

DEBIAN = (boot_tree.TREES / "debian12-grub.cfg").read_text()


def menu(text, block=None, platform="pc", files=None, bls=()):
    texts = dict(files or {}, **{"/g/grub.cfg": text})
    found = grubmenu.Menu(block or {}, platform, "/g", texts.get, lambda: list(bls))
    found.load("/g/grub.cfg")
    return found


def words(text, **env):
    return [one for token in grubscript.tokens(text) if token.parts is not None
            for one in grubscript.expand(token, env)]


@pytest.mark.parametrize(("text", "expected"), [
    ("linux /vmlinuz  ro quiet # more", ["linux", "/vmlinuz", "ro", "quiet"]),
    ("'a b' \"c d\" e\\ f", ["a b", "c d", "e f"]),
    ("'it'\\''s' \"say \\\"x\\\" \\a\"", ["it's", 'say "x" \\a']),
    ("x$name ${name}y \"$name\"", ["xone", "two", "one", "twoy", "one two"]),
    ("$none '' \"$none\" x$none", ["", "", "x"]),
    ("a\\\nb", ["ab"]), ("a#b", ["a#b"]), ("$ cost", ["$", "cost"]),
])
def test_words(text, expected):
    assert words(text, name="one two") == expected


SCRIPTS = [
    "set a=b", "a=b; export a", "if true; then set a=1; fi",
    "if [ a = b ]; then set a=1; elif true; then set b=1; else set c=1; fi", "if true then fi", "if true; set a=1; fi",
    "fi", "{", "menuentry 'a' {\n", "menuentry a { echo x\n}", "menuentry a {\n if true; then echo x; fi\n}",
    "function f {\n echo x\n}", "for i in 1 2; do echo $i; done", "while true; do echo x; done",
    "until false; do true; done",
    "echo 'open", "echo \"open", "submenu a { menuentry b { echo c\n}\n}", "else echo a", "if true; then echo a; done",
    "echo a {", "}", "menuentry 'x' --id y { linux /v a=1\n initrd /i\n}", "done",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_script_is_what_grub_takes_for_one(text):
    checked = subprocess.run(["grub-script-check"], input=text + "\ntrue\n", text=True, stderr=subprocess.DEVNULL)
    try:
        grubscript.parse(text + "\ntrue\n")
        ours = 0
    except FleetError:
        ours = 1
    assert ours == min(checked.returncode, 1)


def test_errors_name_the_line():
    with pytest.raises(FleetError, match=r"^line 3: a quote does not end"):
        grubscript.parse("a\nb\nc 'd\n")
    with pytest.raises(FleetError, match=r"^/g/grub.cfg, line 2: .* is missing"):
        menu("if true; then\necho x")
    with pytest.raises(FleetError, match="source each other"):
        menu("source /g/grub.cfg")


def test_debians_own():
    found = menu(DEBIAN, files={"/g/grubenv": "x"})
    ids = [grubmenu.full_id(path) for path in grubmenu.paths(found.entries)]
    recovery = [boot_tree.entry_id(name).replace(f"{name}-advanced", f"{name}-recovery")
                for name in (boot_tree.STOCK, boot_tree.NEW)]
    stock, new = boot_tree.entry_id(boot_tree.STOCK), boot_tree.entry_id(boot_tree.NEW)
    assert ids == [boot_tree.DEFAULT_ID, stock, recovery[0], new, recovery[1]]
    assert found.env["default"] == "0" and "boot_once" not in found.env
    parts = grubscript.parts(grubmenu.paths(found.entries)[0][0].body, found.env)
    linux = [words for _, name, words in parts if name == "linux"]
    assert linux == [["/boot/vmlinuz-" + boot_tree.STOCK, f"root=UUID={boot_tree.UUID}", "ro",
                      "console=ttyS0", "quiet"]]
    assert "/g/custom.cfg" not in found.sourced


def test_a_one_shot_boot_wins():
    found = menu(DEBIAN, {"next_entry": "a>b", "saved_entry": "c"}, files={"/g/grubenv": "x"})
    assert (found.env["default"], found.env["boot_once"], found.env["next_entry"]) == ("a>b", "true", "")


@pytest.mark.parametrize(("condition", "holds"), [
    ("[ a ]", True), ("[ '' ]", False), ("[ $none ]", False), ("[ ! a ]", False), ("[ -z '' ]", True),
    ("[ -n '' ]", False),
    ("[ -n ]", False), ("[ -z ]", True), ("[ a = a ]", True), ("[ a != a ]", False), ("test a == a", True),
    ("[ 3 -gt 2 ]", True), ("[ 3 -le 2 ]", False), ("[ a = a -a b = c ]", False), ("[ a = b -o b = b ]", True),
    ("[ -f /g/there ]", True), ("[ -f /g/away ]", False), ("[ -s /g/empty ]", False), ("[ -e /g/empty ]", True),
    ("[ x$grub_platform = xpc ]", True), ("[ x\"${feature_menuentry_id}\" = xy ]", True), ("true", True),
    ("loadfont x", False), ("keystatus --shift", False),
])
def test_conditions(condition, holds):
    text = f"if {condition}; then set got=yes; else set got=no; fi"
    found = menu(text, files={"/g/there": "text", "/g/empty": ""})
    assert found.env["got"] == ("yes" if holds else "no")


def test_the_rest_of_the_language():
    found = menu("""
set a=1; set b="$a 2"; unset a
kept=3
load_env picked
function g { set b=never
}
for x in 1 2; do set b=never; done
source $prefix/more.cfg
insmod blscfg
blscfg
menuentry --class c --users '' "Last one" --hotkey=l --unrestricted {
  true
}
""", {"picked": "p", "other": "o"}, files={"/g/more.cfg": "menuentry More { true\n}"},
        bls=[grubmenu.Entry("spec", "Spec", True, "", None)])
    assert (found.env["b"], found.env["kept"], found.env["picked"]) == ("1 2", "3", "p")
    assert "a" not in found.env and "other" not in found.env
    assert [(entry.id, entry.title, entry.unrestricted) for entry in found.entries] == [
        ("More", "More", False), ("spec", "Spec", True), ("Last one", "Last one", True)]


def test_a_default_that_nothing_answers_to():
    entries = menu("menuentry A --id a { true\n}\nsubmenu S --id s {\nmenuentry 'B > C' { true\n}\n}").entries
    assert grubmenu.full_id(grubmenu.resolve(entries, "1>0")) == "s>B >> C"
    assert [entry.id for entry in grubmenu.resolve(entries, "s>B >> C")] == ["s", "B > C"]
    assert grubmenu.resolve(entries, "A")[0].id == "a"
    for rule in ("2", "s", "s>1", "none", "", "1"):
        assert grubmenu.resolve(entries, rule) is None


TEXT = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12)
MENUS = st.recursive(
    TEXT.map(lambda title: (title, None)),
    lambda inner: st.tuples(TEXT, st.lists(inner, min_size=1, max_size=3, unique_by=lambda one: one[0])), max_leaves=8)


def render(node, depth=0):
    title, inner = node
    word = "menuentry" if inner is None else "submenu"
    body = "linux /v 'a}b' # }" if inner is None else "".join(render(one, depth + 1) for one in inner)
    return f"{word} {grubscript.quote(title)} {{\n{body}\n}}\n"


def model(nodes, above=()):
    return [path for title, inner in nodes
            for path in ([(*above, title)] if inner is None else model(inner, (*above, title)))]


@given(st.lists(MENUS, max_size=4, unique_by=lambda one: one[0]))
@settings(max_examples=150, deadline=None)
def test_every_menu_is_read_as_it_was_written(nodes):
    entries = menu("".join(render(one) for one in nodes)).entries
    paths = grubmenu.paths(entries)
    assert [tuple(entry.title for entry in path) for path in paths] == model(nodes)
    for path in paths:
        if not any(entry.id.isdigit() or entry.id.startswith(">") for entry in path):
            assert grubmenu.resolve(entries, grubmenu.full_id(path)) == path


@given(TEXT)
def test_quote(text):
    assert words(grubscript.quote(text), n="x") == [text]


@given(st.text(st.sampled_from("ab'\"\\ ${}#;\n=|&"), max_size=20))
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused(text):
    try:
        menu(text)
    except FleetError as error:
        assert "line " in str(error)
