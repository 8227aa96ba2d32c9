# Everything a developer or a user of the checkout runs. `make help` lists it.
PYTHON ?= python3
VENV   ?= .venv
# The only dependency that must be in place before the others: left to itself, pip would pull in
# the newest torch with gigabytes of CUDA packages. TORCH=… names another build or a local wheel.
TORCH  ?= torch==2.13.0
# Which transformers `make test` runs with: locked as constraints.txt has it, or the newest or the oldest that
# pyproject.toml allows. The latter two lie over the environment, in a folder of their own.
TRANSFORMERS ?= locked
# Processes of `make pytest` and `make wheels`; of the first each computes with one thread where there are several. The commands that tests run
# find our modules compiled, whatever the caller's environment says of that.
JOBS   ?= $(shell nproc)
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check -q
NATIVE := $(shell find runtime/csrc -type f 2>/dev/null) CMakeLists.txt pyproject.toml
# $(call INSTALL,instruction sets of the CPU kernels,CUDA kernels): runtime/csrc has the choices.
INSTALL = $(PIP) install --no-build-isolation --no-deps -e . --config-settings=cmake.define.SPARSEFLOW_CPU=$(1) \
  --config-settings=cmake.define.SPARSEFLOW_CUDA=$(2)
# What `make demo` builds: the CUDA kernels, which take most of a build's time, where a GPU can run them or where
# they were compiled before. GPU= or GPU=1 says it by hand.
GPU    ?= $(wildcard /dev/nvidia0 /dev/dxg)
TESTER := $(VENV)/bin/python
ifneq ($(TRANSFORMERS),locked)
TESTER := $(VENV)-transformers-$(TRANSFORMERS)/bin/python
endif

.DEFAULT_GOAL := help
.PHONY: always help env lock build demo test lit pytest test-vllm test-vllm-layers check format docs site source notebook fuzz sanitize wheels bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What the native library is built with. All else is installed over it.
$(VENV)/.builder: pyproject.toml constraints.txt tools/requirements.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile -c constraints.txt "$(TORCH)" $$($(VENV)/bin/python tools/requirements.py pyproject.toml --only build)
	@touch $@

$(VENV)/.dependencies: $(VENV)/.builder
	$(VENV)/bin/python tools/requirements.py pyproject.toml > $(VENV)/requirements.txt
	$(PIP) install --no-compile -c constraints.txt -r $(VENV)/requirements.txt
	@# pip would compile these 280 MB of Python in one process. Templates among them are no Python, hence `true`.
	$(VENV)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@touch $@

$(VENV)-transformers-%/.dependencies: $(VENV)/.dependencies tools/transformers_overlay.sh
	tools/transformers_overlay.sh $(VENV) $(@D) $*
	@touch $@

# What is the newest changes from day to day.
$(VENV)-transformers-newest/.dependencies: always

$(VENV)/.installed: $(VENV)/.dependencies $(NATIVE)
	$(call INSTALL,ALL,AUTO)
	@touch $@ $(VENV)/.installed-demo

# What the demo runs with, and no more. Its packages, of which Python compiles what is imported, come while the compiler
# works; pip skips those that are there.
$(VENV)/.installed-demo: $(VENV)/.builder $(NATIVE)
	@echo "No GPU here: the native library is built for this processor alone, without CUDA kernels. make build adds the rest."
	$(VENV)/bin/python tools/requirements.py pyproject.toml --only dependencies compiler demo > $(VENV)/requirements-demo.txt
	$(PIP) install --no-compile -c constraints.txt -r $(VENV)/requirements-demo.txt & \
	  $(call INSTALL,HOST,OFF); built=$$?; wait $$! && exit $$built
	@touch $@

env: $(VENV)/.dependencies ## Create the environment in .venv

lock: ## Renew constraints.txt: every version that a new environment gets today
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q "$(TORCH)"
	$(PYTHON) tools/requirements.py pyproject.toml > build/lock/requirements.txt
	build/lock/bin/python -m pip install -q -r build/lock/requirements.txt
	{ sed '/^[^#]/d' constraints.txt; build/lock/bin/python -m pip freeze | grep -vE '^(torch|triton|(nvidia|cuda)-.*)==' ; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

build: $(VENV)/.installed ## Build the native library, with CUDA where nvcc is, and install the package, editable

demo: $(if $(GPU)$(wildcard $(VENV)/.installed),build,$(VENV)/.installed-demo) ## Let a pretrained language model and a sentence encoder run dense and sparse (minutes once, 93 MB)
	$(VENV)/bin/python demo/demo.py

test: build lit pytest ## Build and run all tests

lit: build ## Run the lit/FileCheck tests
	$(VENV)/bin/lit -q test

pytest: build $(TESTER:/bin/python=/.dependencies) ## Run the Python tests: JOBS=1 for one process, TRANSFORMERS=newest or oldest
	PYTHONDONTWRITEBYTECODE= $(if $(filter 1,$(JOBS)),,OMP_NUM_THREADS=1) $(TESTER) -m pytest -q $(if $(filter 1,$(JOBS)),,-n $(JOBS) --dist loadfile --no-loadscope-reorder)

$(VENV)-vllm/.dependencies: $(VENV)/.installed tools/vllm_overlay.sh tools/vllm-requirements.txt
	tools/vllm_overlay.sh $(VENV) $(@D)
	@touch $@

VLLM_TESTS := test/unit/integrations/vllm
ENGINES := $(VLLM_TESTS)/test_served_chat.py $(VLLM_TESTS)/test_served_tokens.py
test-vllm: build $(VENV)-vllm/.dependencies ## Install vLLM for CPUs over the environment (650 MB) and test the plugin (a quarter of an hour)
	OMP_NUM_THREADS=1 $(VENV)-vllm/bin/python -m pytest -q -m vllm $(VLLM_TESTS)

# What CI has time for.
test-vllm-layers: build $(VENV)-vllm/.dependencies ## The same with one engine and all tests of layers (minutes)
	OMP_NUM_THREADS=1 $(VENV)-vllm/bin/python -m pytest -q -m vllm $(filter-out $(ENGINES),$(wildcard $(VLLM_TESTS)/test_*.py)) \
	  "$(VLLM_TESTS)/test_served_tokens.py::test_tokens_are_those_of_transformers[llama-saved]"

check: build source ## The one gate: format, lint, types, layers, generated docs
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	MYPYPATH=build/source $(VENV)/bin/mypy -p sparseflow
	MYPYPATH=build/source:benchmarks:demo $(VENV)/bin/mypy --strict tools benchmarks demo
	$(VENV)/bin/python tools/layers.py build/source
	$(VENV)/bin/python -m sparseflow.tools.passes_doc --check docs/reference/passes.md
	$(VENV)/bin/python tools/readme_tables.py --check README.md docs
	$(VENV)/bin/python tools/speed_chart.py --check docs/assets
	$(VENV)/bin/python tools/reference_pages.py --check docs/reference
	$(VENV)/bin/python tools/result_ages.py
	$(MAKE) site

format: env ## Rewrite the sources in the house's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: build ## Regenerate the reference pages, the documents' tables and the chart, and build the site
	$(VENV)/bin/python -m sparseflow.tools.passes_doc docs/reference/passes.md
	$(VENV)/bin/python tools/readme_tables.py README.md docs
	$(VENV)/bin/python tools/speed_chart.py docs/assets
	$(VENV)/bin/python tools/reference_pages.py docs/reference
	$(MAKE) site

site: source ## Build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build -q --strict

source: env # The Python sources as they are installed, for tools that read them
	rm -rf build/source
	mkdir -p build/source
	cp -r sparseflow_compiler build/source/sparseflow
	cp -r passes lowering runtime build/source/sparseflow

notebook: build ## Run the demo notebook and keep its outputs
	$(VENV)/bin/python tools/run_notebook.py demo/SparseFlow_Demo.ipynb

fuzz: build ## Feed sparseflow-opt and sf.load with 50,000 mutated inputs each, compile 2,000 random models (half an hour)
	$(VENV)/bin/python tools/fuzz.py opt --count 50000 --jobs $$(nproc)
	$(VENV)/bin/python tools/fuzz.py load --count 50000 --jobs $$(nproc)
	$(VENV)/bin/python tools/fuzz.py compile --count 2000 --jobs $$(nproc)

WHEELS ?= cpu cuda
SANITIZER ?= address,undefined
sanitize: build ## Run the native tests under sanitizers, without CUDA; SANITIZER=thread: calls from several threads
	tools/sanitize.sh $(VENV)/bin/python $(SANITIZER)

wheels: env ## Build the wheels that are published into dist, and try them; WHEELS="cpu cuda", ARCHITECTURES="80-real;90"
	$(PIP) install $$($(VENV)/bin/python tools/requirements.py pyproject.toml --only release)
	for variant in $(WHEELS); do $(VENV)/bin/python tools/wheels.py $$variant --jobs $(JOBS) $(if $(ARCHITECTURES),--architectures "$(ARCHITECTURES)") || exit 1; done
	for wheel in dist/*-manylinux_2_28_x86_64.whl; do tools/try_wheel.sh $$wheel $(PYTHON) "$(TORCH)" || exit 1; done

bench: build ## Run the CPU benchmarks (minutes) and regenerate the tables
	$(VENV)/bin/python benchmarks/bench_gemm_cpu.py
	$(VENV)/bin/python benchmarks/bench_compile.py
	$(MAKE) docs

clean: ## Remove build output, keep the environment
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
