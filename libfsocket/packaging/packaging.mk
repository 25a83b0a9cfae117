# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
# `rpm` and `deb`: packages in BUILD/packages. Included by ../Makefile.
#
# They put the library where the role libfsocket never looks for versions to remove, /usr/lib/fastsocket/package/, and turn the
# link that services get only when nobody else has turned it to a library of his own. See scripts.sh.

RELEASE ?= 1
export SOURCE_DATE_EPOCH ?= 1767225600
PACKAGES = $(BUILD)/packages
ROOT = $(abspath $(BUILD))/package

rpm: $(BUILD)/package.stamp packaging/libfsocket.spec
	rm -rf $(ROOT)/rpm $(PACKAGES)/libfsocket-*.rpm
	rpmbuild --quiet -bb --dbpath $(ROOT)/rpm/db --define '_topdir $(ROOT)/rpm' --define '_rpmdir $(abspath $(PACKAGES))' \
		--define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' --define 'pkgversion $(VERSION)' \
		--define 'pkgrelease $(RELEASE)' --define 'made $(ROOT)' packaging/libfsocket.spec
	rm -rf $(ROOT)/rpm
deb: $(BUILD)/package.stamp
	rm -rf $(PACKAGES)/libfsocket_*.deb
	packaging/make-deb $(ROOT) $(VERSION)-$(RELEASE) $(PACKAGES)

# Without debug information: it holds the path of the folder it was built in. The library's name carries what is in it.
$(BUILD)/package.stamp: $(SOURCES) $(HEADERS) $(BUILD)/libfsocket.7 src/libfsocket.map Makefile packaging/packaging.mk packaging/scripts.sh
	rm -rf $(ROOT) && mkdir -p $(ROOT)/root/usr/lib/fastsocket/package $(ROOT)/root/usr/share/man/man7 $(PACKAGES)
	$(MAKE) --no-print-directory -s BUILD=$(ROOT)/build CFLAGS='$(CFLAGS) -g0' all
	name=libfsocket.so.$(VERSION)-$$(sha256sum $(ROOT)/build/libfsocket.so | cut -c 1-12); \
		install -m 755 $(ROOT)/build/libfsocket.so $(ROOT)/root/usr/lib/fastsocket/package/$$name; \
		for script in post preun; do \
			{ sed "s/@NAME@/$$name/" packaging/scripts.sh; echo "$$script \"\$$@\""; } >$(ROOT)/$$script; done
	gzip -9n <$(BUILD)/libfsocket.7 >$(ROOT)/root/usr/share/man/man7/libfsocket.7.gz
	chmod 644 $(ROOT)/root/usr/share/man/man7/libfsocket.7.gz
	touch $@

.PHONY: rpm deb
