# Gemline. `make help` lists the targets. MODE=release|asan|ubsan|tsan picks the build (build/$(MODE)).
MODE    ?= release
B       := build/$(MODE)
JOBS    ?= $(shell nproc)
MAKEFLAGS += --no-print-directory

# What is typed reaches tools/run.sh through the environment, byte for byte: without this line make
# would expand the dollars in it.
override PROMPT  := $(value PROMPT)
override MODEL   := $(value MODEL)
override ADAPTER := $(value ADAPTER)
export PROMPT MODEL ADAPTER

CC      ?= cc
CXX     ?= c++
OPT_release := -O2 -g
OPT_asan    := -O1 -g -fsanitize=address -fno-omit-frame-pointer
OPT_ubsan   := -O1 -g -fsanitize=undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
OPT_tsan    := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
# Clang only (tools/fuzz.sh): every source of the targets is built for the fuzzer, once.
OPT_fuzz    := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined \
               -fno-omit-frame-pointer
WARN    := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
ifeq ($(MODE),fuzz) # another compiler, whose warnings are others: gcc's builds judge them
WARN    := $(filter-out -Werror,$(WARN)) -Werror=implicit-function-declaration
endif
BASE    := $(OPT_$(MODE)) -fno-math-errno -fno-trapping-math -ffp-contract=off -D_GNU_SOURCE -I. -I$(B)/gen -MMD -MP
CFLAGS  := -std=c11 $(BASE) $(WARN)
GENFLAGS := -std=c11 $(BASE) -w
CXXFLAGS := -std=c++17 $(BASE) -Wall -Wextra -Wconversion -Werror

# One folder is one layer. A program is its own folder plus the layers it may include.
KERNELS := $(wildcard kernels/*.c kernels/ref/*.c kernels/cpu/*.c)
BASEC   := $(wildcard common/base/*.c)
NETC    := $(wildcard common/net/*.c)
MODELC  := $(wildcard common/model/*.c)
PROTO   := $(wildcard proto/*.proto)
GENC    := $(PROTO:proto/%.proto=$(B)/gen/%.pb-c.c)

obj = $(patsubst %.c,$(B)/%.o,$(filter %.c,$(1))) $(patsubst %.cc,$(B)/%.o,$(filter %.cc,$(1)))
LIBS := $(B)/lib/libgmnet.a $(B)/lib/libgmmodel.a $(B)/lib/libgmbase.a $(B)/lib/libgmkernels.a
NETLIBS := -lzmq -lprotobuf-c -lhiredis

# program: sources, libraries
SRC_gemline         := $(wildcard services/cli/*.c)
SRC_gm-orchestrator := $(wildcard orchestrator/*.c)
SRC_gm-tokenizer    := $(wildcard services/tokenizer/*.c services/tokenizer/*.cc)
SRC_gm-shard        := $(wildcard services/shard/*.c)
SRC_gm-sampler      := $(wildcard services/sampler/*.c)
SRC_gm-gateway      := $(wildcard services/gateway/*.c)
LIB_gemline         := -ledit -ljansson -lsodium
LIB_gm-gateway      := -lmicrohttpd -ljansson -lsodium
LIB_gm-tokenizer    := -lsentencepiece -ljansson -lstdc++
PROGRAMS := $(foreach p,gemline gm-orchestrator gm-tokenizer gm-shard gm-sampler gm-gateway,\
              $(if $(filter %/main.c,$(SRC_$(p))),$(p)))
BINS := $(PROGRAMS:%=$(B)/bin/%)

UNITS := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))

# One instruction set per file: the file's name says which, and nothing else gets the flag.
SET_avx2       := -mavx2 -mfma -mf16c
SET_avx512     := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni $(SET_avx2)
SET_avx512bf16 := -mavx512bf16 $(SET_avx512)
# Fuzzing runs the reference: these take minutes to build with its checks.
ifeq ($(MODE),fuzz)
$(B)/kernels/cpu/%.o:            CFLAGS := $(filter-out -fsanitize%,$(CFLAGS))
endif
$(B)/kernels/cpu/avx2_%.o:       CFLAGS += $(SET_avx2)
$(B)/kernels/cpu/avx512_%.o:     CFLAGS += $(SET_avx512)
$(B)/kernels/cpu/avx512bf16_%.o: CFLAGS += $(SET_avx512bf16)

.PHONY: help all run test unit check lint fuzz fuzz-seeds bench model clean setup golden-long system sanitize soak gen python chaos
.SECONDARY:
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n",$$1,$$2}' Makefile

setup: build/.setup ## install what is needed (Debian packages; sudo when not root)
build/.setup: tools/setup.sh tools/packages.txt
	@bash tools/setup.sh
	@mkdir -p build && touch $@

all: build/.setup ## build every program
	@$(MAKE) -s -j$(JOBS) $(B)/.built >&2
	@[ "$$(readlink build/bin)" = $(MODE)/bin ] || ln -sfn $(MODE)/bin build/bin
$(B)/.built: $(BINS)
	@mkdir -p $(@D) && touch $@

model: build/.setup ## fetch the default model (checked by SHA-256) into the cache folder
	@bash tools/fetch-model.sh

run: all ## set up, build, fetch the model, and chat (PROMPT="..." for one answer; MODEL=F ADAPTER=D|none)
	@bash tools/run.sh $(ARGS)

unit: build/.setup ## C tests: no model, no network, under a minute
	@$(MAKE) -s -j$(JOBS) $(B)/.units >&2
	@bash tools/run-units.sh $(B)
$(B)/.units: $(UNITS)
	@mkdir -p $(@D) && touch $@

test: all model ## set-up, build, unit tests, and the running system on the real model
	@$(MAKE) unit
	@bash tools/run-system.sh

system: all model ## the running system's tests alone (ARGS="-k name")
	@bash tools/run-system.sh $(ARGS)

SANITIZERS := asan ubsan tsan
sanitize: model ## all tests on the sanitizers' builds, hours (MODE=asan|ubsan|tsan for one; ARGS)
	@bash tools/sanitize.sh $(if $(filter $(SANITIZERS),$(MODE)),$(MODE),$(SANITIZERS)) -- $(ARGS)

SOAK_S = $(if $(filter command environment,$(firstword $(origin SECONDS))),$(SECONDS),1800)
soak: all model ## full load, SECONDS=n (1800), after a warm-up: does memory stand still?
	@/usr/bin/python3 tools/soak.py --seconds $(SOAK_S) $(ARGS)

golden-long: all model ## the two long golden cases on the reference kernels (about half an hour)
	@bash tools/golden-long.sh

lint: build/.setup ## layers, sizes, headers, named paths
	@$(MAKE) -s gen
	@/usr/bin/python3 tools/lint.py

check: build/.setup ## lint, format, warnings, sanitizer builds and their unit tests
	@bash tools/check.sh

FUZZ    ?= all
SECONDS ?= 60
fuzz: build/.setup ## libFuzzer targets: FUZZ=name (all) for SECONDS=n each (60); clang
	@bash tools/fuzz.sh "$(FUZZ)" "$(SECONDS)"

fuzz-seeds: build/.setup ## write the seeds in tests/fuzz that a program makes
	@$(MAKE) -s -j$(JOBS) $(B)/bin/make_seeds >&2
	@$(B)/bin/make_seeds tests/fuzz

# SECONDS and SEED as typed: make chaos SECONDS=1200 SEED=7
chaos: all model ## kill drills: 20 streams under random deaths, every byte compared (SECONDS=60 SEED=1)
	@bash tools/chaos.sh "$(or $(SECONDS),60)" "$(or $(SEED),1)" $(ARGS)

bench: all model ## side by side with llama.cpp, built on first use (ARGS="--rows 1,2 --quick")
	@bash tools/bench.sh $(ARGS)

clean: ## remove everything built
	rm -rf build

gen: $(GENC)
python: build/.setup ## the Python client (proto/python) and its messages, in build/python
	@mkdir -p build/python && protoc --proto_path=proto --python_out=build/python $(PROTO)
	@cp proto/python/gemline_rpc.py build/python/
print-%: # the value of one variable, for the scripts
	@echo '$($*)'

# ---- rules -------------------------------------------------------------------------------------
$(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h: proto/%.proto
	@mkdir -p $(B)/gen && protoc-c --proto_path=proto --c_out=$(B)/gen $<
$(B)/gen/%.pb-c.o: $(B)/gen/%.pb-c.c
	@$(CC) $(GENFLAGS) -c -o $@ $<
$(B)/%.o: %.c | $(GENC)
	@mkdir -p $(@D) && echo "cc   $<" && $(CC) $(CFLAGS) -c -o $@ $<
$(B)/%.o: %.cc | $(GENC)
	@mkdir -p $(@D) && echo "c++  $<" && $(CXX) $(CXXFLAGS) -c -o $@ $<

# The services' descriptions lie inside every program (common/net/reflect.c).
$(B)/gen/descriptors.pb: $(PROTO)
	@mkdir -p $(@D) && protoc --proto_path=proto --include_imports --descriptor_set_out=$@ $^
$(B)/common/net/reflect.o: $(B)/gen/descriptors.pb
$(B)/common/net/reflect.o: CFLAGS += -DGM_DESCRIPTORS='"$(B)/gen/descriptors.pb"'

# The service that clients are held against (tests/conformance).
$(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h: tests/conformance/%.proto
	@mkdir -p $(B)/gen && protoc-c --proto_path=tests/conformance --c_out=$(B)/gen $<
$(B)/gen/conform.pb: tests/conformance/conform.proto
	@mkdir -p $(@D) && protoc --proto_path=tests/conformance --descriptor_set_out=$@ $<
$(B)/tests/unit/conform_serve.o $(B)/tests/unit/test_conformance.o: | $(B)/gen/conform.pb-c.h
$(B)/tests/unit/conform_serve.o: $(B)/gen/conform.pb
$(B)/tests/unit/conform_serve.o: CFLAGS += -DCONFORM_SET='"$(B)/gen/conform.pb"'
$(B)/tests/test_conformance: $(B)/gen/conform.pb-c.o

# The web page lies inside the program.
$(B)/services/gateway/files.o: $(wildcard services/gateway/page/*)

$(B)/lib/libgmkernels.a: $(call obj,$(KERNELS))
$(B)/lib/libgmbase.a:    $(call obj,$(BASEC))
$(B)/lib/libgmmodel.a:   $(call obj,$(MODELC))
$(B)/lib/libgmnet.a:     $(call obj,$(NETC)) $(GENC:.c=.o)
$(B)/lib/%.a:
	@mkdir -p $(@D) && rm -f $@ && ar rcs $@ $^

define program
$(B)/bin/$(1): $(call obj,$(SRC_$(1))) $(LIBS)
	@mkdir -p $$(@D) && echo "link $$@" && $$(CC) $$(BASE) -o $$@ $$(filter %.o,$$^) $(LIBS) $(NETLIBS) $(LIB_$(1)) -lxxhash -lm -lpthread
endef
$(foreach p,$(PROGRAMS),$(eval $(call program,$(p))))

# A unit test may name extra sources in its first lines:  // uses: services/tokenizer/turns.c ...
uses = $(shell sed -n 's,^// uses: ,,p' $(1))
libs = $(shell sed -n 's,^// libs: ,,p' $(1))
define unit
$(B)/tests/$(1): $(B)/tests/unit/$(1).o $(wildcard tests/unit/support*.c) $(call obj,$(call uses,tests/unit/$(1).c) $(wildcard tests/unit/support*.c)) $(LIBS)
	@mkdir -p $$(@D) && echo "link $$@" && $$(CC) $$(BASE) -o $$@ $$(filter %.o,$$^) $(LIBS) -lcunit $(NETLIBS) $(call libs,tests/unit/$(1).c) -lxxhash -lm -lpthread
endef
$(foreach u,$(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c)),$(eval $(call unit,$(u))))

# A fuzzing target names extra sources and libraries in the same way. Only with MODE=fuzz and clang.
FUZZES := $(patsubst tests/fuzz/%.c,$(B)/bin/%,$(wildcard tests/fuzz/fuzz_*.c))
define fuzz_target
$(B)/bin/$(1): $(B)/tests/fuzz/$(1).o $(call obj,$(call uses,tests/fuzz/$(1).c)) $(LIBS)
	@mkdir -p $$(@D) && echo "link $$@" && $$(CXX) $$(BASE) -fsanitize=fuzzer -o $$@ $$(filter %.o,$$^) $(LIBS) $(call libs,tests/fuzz/$(1).c) $(NETLIBS) -lxxhash -lm -lpthread
endef
$(foreach f,$(notdir $(FUZZES)),$(eval $(call fuzz_target,$(f))))
$(B)/bin/make_seeds: $(B)/tests/fuzz/make_seeds.o $(call obj,$(call uses,tests/fuzz/make_seeds.c)) $(LIBS)
	@mkdir -p $(@D) && echo "link $@" && $(CC) $(BASE) -o $@ $(filter %.o,$^) $(LIBS) $(NETLIBS) -lxxhash -lm -lpthread

-include $(shell find $(B) -name '*.d' 2>/dev/null)
