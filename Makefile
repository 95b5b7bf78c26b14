# SPDX-License-Identifier: Apache-2.0
#
# The only build file. Everything lands in out/<V>/; nothing is written beside
# the sources. `make help` lists the targets, `make deps` installs what a bare
# Debian 12 lacks.
#
#   V=debug     -O1, DEBUG_CHECK and fault points on (default)
#     release   -O2 with hardening, no fault points: what is installed
#     asan      debug plus AddressSanitizer and UndefinedBehaviorSanitizer
#     tsan      debug plus ThreadSanitizer
#     cov       debug plus gcov
#     fuzz      clang's libFuzzer plus the flags of asan (made by `make fuzz`)
#   CC=clang    another compiler (fuzz always takes clang)
#   WERROR=     warnings do not stop the build
#   VERBOSE=1   whole commands
#   JOBS=N      parallelism of the targets that build several variants
#   SEED= STEPS= SEEDS=     what `make sim` plays
#   DEMO=small  the demos for a laptop
#   FUZZ_S=60   seconds per target of `make fuzz`; SOAK_MIN=60 minutes of soak
#   PREFIX= DESTDIR= SYSCONFDIR=   where `make install` puts things
#
# Layers are static libraries: a unit test names the ones it may link on its
# second line (/* LAYERS: store base */), so an illegal call does not link.

V ?= debug
O := out/$(V)
JOBS ?= $(shell nproc)
VERSION := 0.1.0
WERROR ?= -Werror
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
FUZZ_S ?= 60
SOAK_MIN ?= 60

# ---- Flags -----------------------------------------------------------------

WARN := -Wall -Wextra -Wshadow -Wconversion -Wswitch-enum \
  -Wmissing-prototypes -Wstrict-prototypes -Wcast-qual $(WERROR)
DEBUG := -O1 -g -fno-omit-frame-pointer -DPIKV_DEBUG -DPIKV_FAULTS
UBSAN := -fsanitize=address,undefined -fno-sanitize-recover=all

FLAGS_debug := $(DEBUG)
FLAGS_release := -O2 -g -D_FORTIFY_SOURCE=2 -fstack-protector-strong \
  -fstack-clash-protection -fcf-protection
FLAGS_asan := $(DEBUG) $(UBSAN)
FLAGS_tsan := $(DEBUG) -fsanitize=thread
FLAGS_cov := $(DEBUG) --coverage
# clang looks into the macros of protobuf-c's headers, gcc does not.
FLAGS_fuzz := $(DEBUG) $(UBSAN) -fsanitize=fuzzer-no-link -Wno-cast-qual
LINK_release := -Wl,-z,relro,-z,now
ifeq ($(filter $(V),debug release asan tsan cov fuzz),)
$(error V=$(V) is not one of debug release asan tsan cov fuzz)
endif
CC := $(if $(filter fuzz,$(V)),clang,$(CC))
FLAGS := $(FLAGS_$(V))
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE -DPIKV_VERSION='"$(VERSION)"' \
  -I. -Idaemon -isystem out/gen $(WARN) $(FLAGS) -fPIC -MMD -MP $(CFLAGS)
ALL_LDFLAGS = $(FLAGS) -Wl,--as-needed $(LINK_$(V)) $(LDFLAGS)

CLIENT_LIBS := -lprotobuf-c -lisal -lpthread -ldl
DAEMON_LIBS := -lraft -lssl -lcrypto -luv -luring -lucp -lucs -ljansson -lmicrohttpd $(CLIENT_LIBS)
TEST_LIBS := -lcheck_pic -lsubunit -lrt -lm $(DAEMON_LIBS)

# ---- What there is ---------------------------------------------------------

LAYERS := door server rpc store cluster base
src = $(sort $(wildcard $(1)))
objs = $(patsubst %.c,$(O)/obj/%.o,$(1))

PROTO_OBJ := $(O)/obj/gen/pikv.pb-c.o
PEER_OBJ := $(O)/obj/gen/peer.pb-c.o
MAIN_OBJ := $(call objs,$(call src,daemon/main.c))
# The daemon's code that libpikv also carries, under local names.
LIBPIKV_SHARED := $(call src,daemon/rpc/frame.c daemon/rpc/msg.c \
  daemon/rpc/ring.c daemon/base/*.c)
LIBPIKV_OBJS := $(call objs,$(call src,client/*.c) $(LIBPIKV_SHARED)) \
  $(PROTO_OBJ)
CTL_OBJS := $(call objs,$(call src,client/ctl/*.c))
FSCK_OBJS := $(call objs,$(call src,daemon/fsck*.c))
BENCH_OBJS := $(call objs,$(call src,bench/*.c))
LAYER_LIBS := $(foreach l,$(LAYERS) proto,$(O)/lib$(l).a)
# Unit tests arm fault points, which release builds do not have; under
# ThreadSanitizer only those with threads are worth the time.
UNIT_SRC := $(call src,tests/unit/test_*.c)
ifeq ($(V),tsan)
UNIT_SRC := $(shell grep -l '<pthread.h>' $(UNIT_SRC) /dev/null)
else ifneq ($(filter release fuzz,$(V)),)
UNIT_SRC :=
endif
UNIT := $(UNIT_SRC:tests/unit/%.c=$(O)/unit/%)
FUZZ := $(patsubst tests/fuzz/%.c,$(O)/fuzz/%,$(call src,tests/fuzz/fuzz_*.c))
SIM := $(patsubst tests/sim/%.c,$(O)/sim_%,$(call src,tests/sim/*.c))
E2E := $(patsubst tests/e2e/%.c,$(O)/e2e_%,$(call src,tests/e2e/*.c))
TESTS := $(UNIT) $(if $(filter-out tsan,$(V)),$(FUZZ)) \
  $(if $(filter-out tsan fuzz,$(V)),$(SIM) $(E2E))
LIBPIKV := $(if $(call src,client/*.c),$(O)/libpikv.so $(O)/libpikv.a)
# The Python package, where there is a Python.h (3.11 or later: the extension
# keeps to the stable ABI of 3.11). PYTHON_INC= for none.
PYTHON_INC ?= $(or $(patsubst %/Python.h,%,$(firstword $(wildcard \
  /usr/include/python3.1[1-9]/Python.h))),$(shell python3 -c 'import os, \
  sysconfig as s; p = s.get_path("include"); \
  print(p if os.path.exists(p + "/Python.h") else "")' 2> /dev/null))
PYTHON_INC := $(PYTHON_INC)
PY_OBJS := $(call objs,$(call src,client/python/src/*.c))
PY_FILES := $(patsubst client/%,$(O)/%,$(call src,client/python/pikv/*.py \
  client/python/pikv/*.pyi client/python/pikv/py.typed))
PYTHON := $(if $(and $(PYTHON_INC),$(PY_OBJS)),$(if $(filter-out tsan fuzz,\
  $(V)),$(O)/python/pikv/_pikv.abi3.so $(PY_FILES)))
PROGRAMS := $(if $(MAIN_OBJ),$(O)/pikvd) $(if $(CTL_OBJS),$(O)/pikvctl) \
  $(if $(FSCK_OBJS),$(O)/pikv-fsck) \
  $(if $(BENCH_OBJS),$(O)/pikv-bench) $(O)/example_put_get

.PHONY: all help deps tests demo demo-cluster check check-cluster bench bench-ssd engines bench-engines fuzz sim soak docs wheel \
  format install
.DEFAULT_GOAL := all
.SECONDEXPANSION .DELETE_ON_ERROR .SECONDARY:

all: $(PROGRAMS) $(LIBPIKV) $(PYTHON) ## programs and libpikv of variant V
tests: $(TESTS) ## test programs of variant V

help: ## this list, and the options
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 14
	@sed -n '/^#   V=/,/^# *$$/s/^# \?//p' Makefile

# ---- Compile ---------------------------------------------------------------

say = $(if $(VERBOSE),,@)mkdir -p $(@D) && echo "  $(1) $@" &&
compile = $(call say,CC  ) $(CC) $(ALL_CFLAGS)
link = $(call say,LINK) $(CC) $(ALL_LDFLAGS)

out/gen/%.pb-c.h: proto/%.proto
	$(call say,GEN ) protoc-c --proto_path=proto --c_out=out/gen $*.proto
out/gen/%.pb-c.c: out/gen/%.pb-c.h ;

# The generated code is not held to our warnings.
$(PROTO_OBJ) $(PEER_OBJ): $(O)/obj/gen/%.o: out/gen/%.c Makefile
	$(compile) -w -c -o $@ $<

# suite() and LLVMFuzzerTestOneInput() are declared by whoever calls them.
$(O)/obj/tests/%.o: WARN += -Wno-missing-prototypes -Itests

$(O)/obj/%.o: %.c Makefile | out/gen/pikv.pb-c.h out/gen/peer.pb-c.h
	$(compile) -c -o $@ $<

$(foreach l,$(LAYERS),$(eval \
  $(O)/lib$(l).a: $(call objs,$(call src,daemon/$(l)/*.c))))
$(O)/libproto.a: $(PROTO_OBJ) $(PEER_OBJ)
$(O)/libtest.a: $(call objs,$(call src,tests/lib/*.c))
# Tests of libpikv's inside name `client` as a layer.
$(O)/libclient.a: $(call objs,$(call src,client/*.c))
$(O)/lib%.a:
	$(call say,AR  ) rm -f $@ && $(AR) rcsD $@ $^

# ---- Link ------------------------------------------------------------------

group = -Wl,--start-group $(1) -Wl,--end-group

# The door for Redis clients is a client: the daemon has libpikv inside.
$(O)/pikvd: $(MAIN_OBJ) $(LAYER_LIBS) $(O)/libpikv.a
	$(link) -pie -o $@ $(MAIN_OBJ) $(call group,$(filter %.a,$^)) $(DAEMON_LIBS)

# One object whose only global names are the public pikv_x (pikv__x are
# protobuf-c's): a host program's own crc32c never meets ours.
$(O)/libpikv.a: $(LIBPIKV_OBJS)
	$(call say,AR  ) rm -f $@ && $(LD) -r -o $(@:.a=.o) $^ && objcopy \
	  --wildcard --keep-global-symbol='pikv_[a-z]*' $(@:.a=.o) && \
	  $(AR) rcsD $@ $(@:.a=.o)
$(O)/libpikv.so.1: $(LIBPIKV_OBJS) client/libpikv.map
	$(link) -shared -Wl,-soname,libpikv.so.1 $(if $(findstring sanitize,\
	  $(FLAGS)),,-Wl,-z,defs) -Wl,--version-script=client/libpikv.map \
	  -o $@ $(LIBPIKV_OBJS) $(CLIENT_LIBS)
$(O)/libpikv.so: $(O)/libpikv.so.1
	ln -sf $(<F) $@

$(O)/pikvctl: $(CTL_OBJS) $(O)/libpikv.a $(O)/libproto.a $(O)/libbase.a
	$(link) -pie -o $@ $^ $(CLIENT_LIBS) -ljansson
$(O)/pikv-fsck: $(FSCK_OBJS) $(O)/libstore.a $(O)/libbase.a
	$(link) -pie -o $@ $^ -ljansson -lisal -lpthread
# The bench also runs the daemon's policy code, hence libstore, and its disks.
DISK_OBJS := $(call objs,$(call src,daemon/server/disk_*.c))
$(O)/pikv-bench: $(BENCH_OBJS) $(DISK_OBJS) $(O)/libpikv.a $(O)/libstore.a \
  $(O)/libcluster.a $(O)/libproto.a $(O)/libbase.a
	$(link) -pie -o $@ $^ $(CLIENT_LIBS) -luring -ljansson -lz -lm

# The extension carries libpikv and, where its archive is there, protobuf-c: one
# object whose only global names are pikv_x, and of these the map lets none out.
PROTOBUF_A := $(filter /%,$(shell $(CC) -print-file-name=libprotobuf-c.a))
$(PY_OBJS): WARN += -isystem $(PYTHON_INC)
$(O)/obj/libpikv_python.o: $(O)/libpikv.a $(PROTOBUF_A)
	$(call say,LD  ) $(LD) -r -o $@ $(O)/libpikv.o $(PROTOBUF_A) && objcopy \
	  --wildcard --keep-global-symbol='pikv_[a-z]*' $@
$(O)/python/pikv/_pikv.abi3.so: $(PY_OBJS) $(O)/obj/libpikv_python.o \
  client/python/src/pikvpy.map
	$(link) -shared -Wl,-rpath,'$$ORIGIN' \
	  -Wl,--version-script=client/python/src/pikvpy.map -o $@ \
	  $(PY_OBJS) $(O)/obj/libpikv_python.o $(CLIENT_LIBS)
$(O)/python/pikv/%: client/python/pikv/%
	$(call say,LINK) ln -srf $< $@

# As a user builds it: the public header and the shared library, no more.
$(O)/example_%: client/example/%.c client/pikv.h $(O)/libpikv.so
	$(link) $(WARN) -Iclient -o $@ $< -L$(O) -lpikv -Wl,-rpath,'$$ORIGIN'

layers_of = $(or $(shell sed -n \
  '2s/.*LAYERS: *\([a-z ]*[a-z]\).*/\1/p' $(1)),$(LAYERS) proto)
# The server's lanes know the cluster's view: no test need say so.
test_libs = $(foreach l,$(call layers_of,$(1)) $(if $(filter   server,$(call layers_of,$(1))),cluster),$(O)/lib$(l).a)

$(O)/unit/%: $(O)/obj/tests/unit/%.o $(O)/libtest.a \
  $$(call test_libs,tests/unit/$$*.c)
	$(link) -pie -o $@ $< $(call group,$(filter %.a,$^)) $(TEST_LIBS)
$(O)/unit/test_fsck: | $(O)/pikv-fsck
$(O)/sim_%: $(O)/obj/tests/sim/%.o $(O)/libtest.a $(LAYER_LIBS)
	$(link) -pie -o $@ $< $(call group,$(filter %.a,$^)) $(TEST_LIBS)
$(O)/e2e_%: $(O)/obj/tests/e2e/%.o $(O)/libpikv.a $(O)/libtest.a $(LAYER_LIBS)
	$(link) -pie -o $@ $< $(call group,$(filter %.a,$^)) $(TEST_LIBS)

# libFuzzer brings main(); elsewhere replay.c does.
FUZZ_MAIN := $(if $(filter-out fuzz,$(V)),$(O)/obj/tests/fuzz/replay.o)
$(O)/fuzz/fuzz_export: $(call objs,$(call src,client/ctl/block_file*.c))
$(O)/fuzz/%: $(O)/obj/tests/fuzz/%.o $(FUZZ_MAIN) $(O)/libtest.a $(LAYER_LIBS)
	$(link) -pie $(if $(FUZZ_MAIN),,-fsanitize=fuzzer) -o $@ \
	  $(filter %.o,$^) $(call group,$(filter %.a,$^)) $(TEST_LIBS)

# ---- What people run -------------------------------------------------------

deps: ## install the Debian packages that are missing
	@.ci/deps.sh build

demo: deps ## build, start pikvd, replay a conversation trace, print a table
	@$(MAKE) -s -j$(JOBS) V=release all
	@DEMO=$(DEMO) ./bench/demo.sh

demo-cluster: deps ## the trace across daemons that are killed, join, are removed
	@$(MAKE) -s -j$(JOBS) V=release all
	@DEMO=$(DEMO) ./bench/demo_cluster.py

check: ## all tests; the last line is "N passed, N failed"
	@.ci/deps.sh check
	@for v in debug asan release; do \
	  $(MAKE) -s -j$(JOBS) V=$$v all tests || exit 1; done
	@$(MAKE) -s -j$(JOBS) V=tsan tests
	@.ci/test.py

check-cluster: ## clusters of real daemons, network faults; a quiet machine
	@.ci/deps.sh check
	@for v in debug release; do \
	  $(MAKE) -s -j$(JOBS) V=$$v all tests || exit 1; done
	@PIKV_BUILD=out/debug tests/e2e/run.py --cluster

bench: ## compare with Redis, memcached, sockets and memcpy; then bench-ssd
	@.ci/deps.sh bench
	@$(MAKE) -s -j$(JOBS) V=release all
	@./bench/compare.sh
	@$(MAKE) -s bench-ssd

bench-ssd: ## the SSD tier beside fio, memcached extstore and Redis
	@.ci/deps.sh bench
	@$(MAKE) -s -j$(JOBS) V=release all
	@for b in ssd tiers recovery; do ./bench/$$b.sh || exit 1; echo; done

engines: ## the doors' tests with the real LMCache, SGLang and vLLM (PyPI)
	@.ci/deps.sh check
	@$(MAKE) -s -j$(JOBS) V=debug all
	@tests/engines/setup.sh lmcache sglang vllm
	@PIKV_BUILD=out/debug tests/engines/run.py --needs-engines

bench-engines: ## the doors beside the engines' own back ends, and Mooncake
	@.ci/deps.sh bench
	@$(MAKE) -s -j$(JOBS) V=release all
	@./bench/engines.sh

fuzz: ## each fuzz target for FUZZ_S seconds, from its corpus
	@.ci/deps.sh fuzz
	@$(MAKE) -s -j$(JOBS) V=fuzz tests
	@.ci/fuzz.sh out/fuzz/fuzz $(FUZZ_S)

sim: ## the whole node under a virtual clock: SEED= STEPS= SEEDS=
	@$(MAKE) -s -j$(JOBS) V=release out/release/sim_swarm
	@out/release/sim_swarm $(if $(SEED),SEED=$(SEED)) \
	  $(if $(STEPS),STEPS=$(STEPS)) $(if $(SEEDS),SEEDS=$(SEEDS))

soak: ## simulator and end-to-end tests again and again for SOAK_MIN minutes
	@.ci/deps.sh check
	@$(MAKE) -s -j$(JOBS) V=asan all tests
	@$(MAKE) -s -j$(JOBS) V=release all tests
	@.ci/test.py --soak $(SOAK_MIN)

docs: $(O)/pikvd ## write docs/reference and config/pikvd.json from the tables
	@.ci/check.py --pikvd $(O)/pikvd --write

format: ## clang-format all C files in place
	clang-format -i $(shell git ls-files -co --exclude-standard '*.c' '*.h')

wheel: ## the Python package with all inside: out/wheel/pikv-*.whl
	@$(MAKE) -s -j$(JOBS) V=release out/release/python/pikv/_pikv.abi3.so
	@client/python/build_backend.py wheel out/release/python/pikv out/wheel

# ---- Install ---------------------------------------------------------------

D = $(DESTDIR)$(PREFIX)
CONF := $(SYSCONFDIR)/pikvd
MAN := $(call src,docs/man/*.scd)

install: ## as V=release into DESTDIR and PREFIX
	@$(MAKE) -s -j$(JOBS) V=release all
	install -Dm755 -t $(D)/sbin out/release/pikvd out/release/pikv-fsck
	install -Dm755 -t $(D)/bin out/release/pikvctl out/release/pikv-bench
	install -Dm644 -t $(D)/lib out/release/libpikv.so.1 out/release/libpikv.a
	ln -sf libpikv.so.1 $(D)/lib/libpikv.so
	install -Dm644 -t $(D)/include client/pikv.h
	install -Dm644 client/pikv.pc.in $(D)/lib/pkgconfig/pikv.pc
	install -Dm644 -t $(D)/lib/systemd/system systemd/pikvd.service
	sed -i 's,@PREFIX@,$(PREFIX),;s,@VERSION@,$(VERSION),;s,/usr/sbin/,$(\
	  )$(PREFIX)/sbin/,;s,/etc/pikvd,$(CONF),' $(D)/lib/pkgconfig/pikv.pc \
	  $(D)/lib/systemd/system/pikvd.service
	install -Dm644 systemd/pikvd.sysusers $(D)/lib/sysusers.d/pikvd.conf
	install -Dm644 systemd/pikvd.tmpfiles $(D)/lib/tmpfiles.d/pikvd.conf
	test -e $(DESTDIR)$(CONF)/pikvd.json || \
	  install -Dm644 -t $(DESTDIR)$(CONF) config/pikvd.json
	! command -v scdoc > /dev/null || for f in $(MAN); do n=$${f##*/}; \
	  n=$${n%.scd}; d=$(D)/share/man/man$${n##*.}; mkdir -p $$d && \
	  scdoc < $$f > $$d/$$n || exit 1; done

-include $(shell find $(O)/obj -name '*.d' 2>/dev/null)
