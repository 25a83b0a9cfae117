# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernels by name: apt and dnf, signatures, and transactions that would do more than add."""

import kernel_packages as make
import pytest
from kernel_packages import HOST


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return make.Key(tmp_path_factory.mktemp("key"))


def test_apt_repository(host, module, share, key, unchanged):
    folder = share / "apt"
    folder.mkdir()
    kernel, package = "6.1.0-9-amd64", "linux-image-6.1.0-9-amd64"
    make.deb(folder, package, make.content(kernel), version="6.1.9-1")
    make.deb(folder, "linux-image-amd64", {}, version="6.1.9-1", Depends=f"{package} (= 6.1.9-1)")
    make.deb(folder, "greedy", make.content("6.1.0-10-amd64"), Conflicts="linux-base")
    make.deb(folder, "plain", {"usr/share/plain": b"x"})
    make.apt_repository(folder, key)
    (share / "key.asc").write_text(key.public.read_text())
    source = "/etc/apt/sources.list.d/test"
    host.sh(HOST, "mv /etc/apt/sources.list /tmp/; echo 'deb [trusted=yes] file:/share/apt ./' "
                  f">{source}.list; apt-get update")
    given = {"package": "linux-image-amd64", "repository": True}
    try:
        with unchanged():
            refused = module(**given)
            assert refused["failed"] and "file:/share/apt" in refused["msg"] and "trusted=yes" in refused["msg"]
        host.sh(HOST, f"rm {source}.list; printf 'Types: deb\\nURIs: file:/share/apt\\nSuites: ./\\nTrusted: yes\\n' "
                      f">{source}.sources; apt-get update")
        with unchanged():
            refused = module(**given)
            assert refused["failed"] and "file:/share/apt" in refused["msg"] and "trusted=yes" in refused["msg"]
        host.sh(HOST, f"sed -i 's,Trusted: yes,Signed-By: /share/key.asc,' {source}.sources; apt-get update")
        with unchanged():
            for wrong, words in {"linux-image-none": "apt-get update", "plain": "brings no kernel", "greedy":
                                 "remove linux-base", "linux-image-": "no name", "/share/x.deb": "no name",
                                 "linux-image-6.1.0-..amd64": "linux-image-6.1.0-..amd64"}.items():
                result = module(package=wrong, repository=True)
                assert result["failed"] and words in result["msg"], result["msg"]
            assert "sha256" in module(sha256="0" * 64, **given)["msg"]
            checked = module(state="checked", **given)
            assert (checked["kernel"], checked["installed"]) == (kernel, False)
            done = module(**given)
            assert done["changed"] and done["kernel"] == kernel and done["name"] == package
            assert sorted(done["packages"]) == [package, "linux-image-amd64"]
            with unchanged():
                again = module(**given)
                assert again["changed"] is False and again["kernel"] == kernel and again["installed"]
            host.sh(HOST, f"rm /boot/vmlinuz-{kernel}")
            mended = module(**given)
            assert not mended["failed"] and mended["changed"], mended
            assert module(**given)["changed"] is False
            make.deb(folder, "linux-image-amd64", {}, version="6.1.10-1", Depends="linux-image-6.1.0-11-amd64")
            make.deb(folder, "linux-image-6.1.0-11-amd64", make.content("6.1.0-11-amd64"), version="6.1.10-1",
                     Breaks="linux-image-amd64 (<< 6.1.10)")
            make.apt_repository(folder, key)
            host.sh(HOST, "apt-get update")
            result = module(package="linux-image-6.1.0-11-amd64", repository=True)
            assert result["failed"] and "linux-image-amd64" in result["msg"], result["msg"]
            assert module(state="absent", kernel=kernel)["changed"]
    finally:
        host.sh(HOST, f"rm -f {source}.*; mv /tmp/sources.list /etc/apt/")


def test_dnf_repository(host, module, share, key, unchanged):
    """As on EL: no dpkg, rpm's database where EL has it, dnf, and a limit of kernels that would push the oldest out."""
    folder = share / "dnf"
    folder.mkdir()

    def kernel(number, name="kernel-ml", **fields):
        version = f"6.{number}.0"
        return make.rpm(folder, name, make.content(f"{version}-1.x86_64", folder="modules"), version,
                        Provides=["installonlypkg(kernel)"], **fields)

    made = [kernel(number) for number in (1, 2, 3, 4)]
    kernel(5, name="kernel-greedy", Obsoletes="kernel-core < 9")
    kernel(7, name="kernel-needy", Requires="library >= 2")
    older = make.rpm(folder, "library", {"usr/share/library": b"1"})
    make.rpm(folder, "library", {"usr/share/library": b"2"}, "2")
    made.append(make.rpm(folder, "plain", {"usr/share/plain": b"x"}))
    for path in folder.glob("*.rpm"):
        key.sign_rpm(path)
    kernel(6, name="kernel-unsigned")
    make.run("createrepo_c", "-q", folder)
    (share / "key.asc").write_text(key.public.read_text())
    host.sh(HOST, f"""
        mv /usr/bin/dpkg /usr/bin/dpkg.off; mkdir -p /etc/yum.repos.d
        printf '%%_dbpath /var/lib/rpm\\n' >/root/.rpmmacros
        printf '[main]\\ngpgcheck=1\\ninstallonly_limit=2\\n' >/etc/dnf/dnf.conf
        printf '[test]\\nname=test\\nbaseurl=file:///share/dnf\\ngpgcheck=0\\ngpgkey=file:///share/key.asc\\n' \
            >/etc/yum.repos.d/test.repo
        rpm -i --nosignature /share/dnf/{made[0].name} /share/dnf/{made[1].name} /share/dnf/{older.name}""")
    state = "rpm -qa | grep -v gpg-pubkey | sort; ls /boot /lib/modules /var/tmp"
    try:
        before = host.sh(HOST, "rpm -qa; ls -R /boot /lib/modules")
        given = {"package": "kernel-ml-6.3.0", "repository": True}
        refused = module(**given)
        assert refused["failed"], refused
        assert "repository test" in refused["msg"] and "gpgcheck=1" in refused["msg"]
        host.sh(HOST, "sed -i s/gpgcheck=0// /etc/yum.repos.d/test.repo")
        for wrong, words in {"kernel-none": "kernel-none", "plain": "brings no kernel",
                             "kernel-greedy": "kernel-core", "kernel-needy": "Upgrading library"}.items():
            result = module(package=wrong, repository=True)
            assert result["failed"] and words in result["msg"], result["msg"]
        assert module(state="checked", **given)["kernel"] == "6.3.0-1.x86_64"
        # Nothing was touched yet: no key was imported either.
        assert host.sh(HOST, "rpm -qa; ls -R /boot /lib/modules") == before
        before = host.sh(HOST, state)
        unsigned = module(package="kernel-unsigned", repository=True)
        assert unsigned["failed"] and "as it was before" in unsigned["msg"] and "signed" in unsigned["msg"], unsigned
        assert host.sh(HOST, state) == before
        done = module(**given)
        assert done["changed"] and done["kernel"] == "6.3.0-1.x86_64" and done["name"] == "kernel-ml"
        assert module(**given)["changed"] is False
        assert len(host.sh(HOST, "rpm -q kernel-ml").split()) == 3
        # a name that is there in some version stays as it is
        assert module(package="kernel-ml", repository=True)["kernel"] == "6.3.0-1.x86_64"
        assert module(state="absent", kernel="6.3.0-1.x86_64")["changed"]
        assert host.sh(HOST, state) == before
    finally:
        host.sh(HOST, "mv /usr/bin/dpkg.off /usr/bin/dpkg; rpm -e kernel-ml-6.1.0 kernel-ml-6.2.0 library; "
                      "rm -r /root/.rpmmacros /etc/yum.repos.d/test.repo")
