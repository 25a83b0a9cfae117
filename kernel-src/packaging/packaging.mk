# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-only
# `rpm` and `deb`: packages in $(PACKAGES), both from the tree. The same tree gives the same bytes. Included by ../Makefile.

# Does the .deb have an initramfs made for it (Yes) or boot without one (No)? On EL dracut always makes one.
INITRD ?= $(if $(filter lab,$(CONFIG)),No,Yes)
# All times in a package: that of the kernel's own time stamp.
export SOURCE_DATE_EPOCH ?= 1767225600
INPUT.deb = $(INITRD)

rpm: $(BUILD)/rpm.stamp ## kernel-fastsocket-6.12.N-RELEASE.x86_64.rpm
deb: $(BUILD)/deb.stamp ## kernel-fastsocket_6.12.N-RELEASE_amd64.deb

$(BUILD)/rpm.stamp: $(BUILD)/tree.stamp packaging/kernel-fastsocket.spec
	rm -rf $(BUILD)/rpmbuild $(PACKAGES)/kernel-fastsocket-*.rpm
	rpmbuild --quiet -bb --target x86_64-linux --dbpath $(BUILD)/rpmbuild/db --define '_topdir $(BUILD)/rpmbuild' \
		--define '_rpmdir $(PACKAGES)' --define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
		--define 'kver $(KVER)' --define 'pkgrelease $(RELEASE)' \
		--define 'tree $(BUILD)/tree' --define 'copying $(LINUX)/COPYING' packaging/kernel-fastsocket.spec
	rm -rf $(BUILD)/rpmbuild && touch $@

$(BUILD)/deb.stamp: $(BUILD)/tree.stamp $(wildcard packaging/deb/*) $(BUILD)/input.deb
	rm -rf $(PACKAGES)/kernel-fastsocket_*.deb
	mkdir -p $(PACKAGES)
	packaging/deb/make-deb $(BUILD)/tree $(KVER) $(RELEASE) $(INITRD) $(LINUX)/COPYING $(PACKAGES)
	touch $@
