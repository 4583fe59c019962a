# For those who expect one: the real build is CMake's (docs/HACKING.md).
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)

.PHONY: all install test check clean

all:
	cmake --preset release -DCMAKE_INSTALL_PREFIX=$(PREFIX)
	cmake --build --preset release -j $(JOBS)

install: all
	DESTDIR=$(DESTDIR) cmake --install build/release --prefix $(PREFIX)

test:
	tools/test

check:
	tools/check

clean:
	rm -rf build
